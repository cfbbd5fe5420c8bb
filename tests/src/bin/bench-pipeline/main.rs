//! How fast jobs go through real servers, as a ratio to the least that any program has to do for it.

mod floor;

use std::process::ExitCode;

use echogen_testkit::RabbitMq;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let server = RabbitMq::start().await?;
    let floor = floor::run(&server.amqp_url(), &floor::Plan::default()).await?;
    println!("floor: {floor}");
    Ok(ExitCode::SUCCESS)
}
