//! A client's trace goes on in the gateway and in the job.

use bytes::Bytes;
use http::Method;
use rustix::process::Signal;

use super::{api::Api, free_address, job};
use crate::{
    collector::Collector,
    installation::LIMIT,
    program::{Folder, Running, wait_for},
};

/// The kind of a server's span as a number of OTLP.
const SERVER: i32 = 2;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn in_hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_and_its_job_are_in_the_clients_trace() {
    let (folder, collector, address) = (Folder::new(), Collector::start().await, free_address());
    let mut command =
        folder.command(&["up", "--gateway", &address.to_string(), "--otlp-endpoint", &collector.endpoint()]);
    command.args(["--bundle", "mini", "--store-url", "store", "--threads", "1"]);
    let key = echogen_tenants::Key::generate().expect("there are random numbers").expose().to_owned();
    command.env("ECHOGEN_GATEWAY_KEY", &key);
    let mut program = Running::start(command, std::process::Stdio::null());
    wait_for("the gateway listens", LIMIT, || std::net::TcpStream::connect(address).ok());
    let api = Api { address, key };
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let headers = [("content-type", "application/json"), ("prefer", "wait=30"), ("traceparent", parent.as_str())];
    api.send(Method::POST, "/v1/jobs", &headers, Bytes::from(job("a mug").to_string())).await.expect(200);
    program.signal(Signal::TERM);
    assert_eq!(program.end(LIMIT), Some(0));
    let spans = collector.spans();
    let with = |name: &str| {
        let found = spans.iter().find(|span| span.name == name);
        found.unwrap_or_else(|| panic!("no span {name} in {spans:#?}"))
    };
    let (request, sent) = (with("submit_job"), with("send echogen.dispatch.standard"));
    assert_eq!(
        (request.kind, in_hex(&request.trace), in_hex(&request.parent)),
        (SERVER, TRACE.to_owned(), PARENT.to_owned())
    );
    let expected = [("http.request.method", "POST"), ("http.route", "/v1/jobs"), ("http.response.status_code", "200")];
    for (name, value) in expected {
        assert_eq!(request.attributes.get(name).map(String::as_str), Some(value), "{name} of {request:#?}");
    }
    assert_eq!((&sent.trace, &sent.parent), (&request.trace, &request.id));
    let processed = with("process echogen.dispatch.standard");
    assert_eq!((&processed.trace, &processed.parent), (&sent.trace, &sent.id));
}
