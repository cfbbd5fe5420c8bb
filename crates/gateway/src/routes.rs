//! The table of routes: the one place that names them. The router and the OpenAPI document are made of it.

use axum::routing::{delete, get, post, put};
use echogen_protocol::Job;
use http::Method;

use crate::{
    admin::{
        self, LetterList, LetterQuery, LettersRequest, LettersSettled, QueueList, Refilled, TenantList, WorkerList,
    },
    batches::{self, BatchList, BatchQuery, BatchView},
    callback_secret::{self, CallbackSecretView},
    events::{self, JobUpdate, Snapshot},
    health,
    jobs::{self, ImageQuery, JobList, JobView, ListQuery, PreviewQuery},
    limits::{self, LimitsView},
    openapi,
    problem::Kind,
    route::{Access, Route},
    session::{self, SessionRequest, SessionView},
    uploads::{self, StoredPicture, Upload, UploadRequest},
    usage::{self, UsageList, UsageQuery},
};

/// Headers by which a job is sent.
const SUBMIT_HEADERS: &[(&str, &str)] = &[
    ("Idempotency-Key", "Names the request: the same key and content give the same job, however often it is sent."),
    ("Prefer", "`wait=N`: answer at the job's end, or after N seconds, 1 to 55."),
];

/// Headers by which a batch is sent.
const BATCH_HEADERS: &[(&str, &str)] =
    &[("Idempotency-Key", "Names the batch: sent again with the same key, it goes on where it broke off.")];

const RESUME: &[(&str, &str)] = &[("Last-Event-ID", "The last event that was received; it is not sent again.")];

/// All routes.
pub fn table() -> Vec<Route> {
    let mut routes = job_routes();
    routes.extend(upload_routes());
    routes.extend(batch_routes());
    routes.extend(general_routes());
    routes.extend(admin_routes());
    routes
}

fn job_routes() -> Vec<Route> {
    vec![
        Route::new(Method::POST, "/v1/jobs", "submit_job", "Sends a job.", post(jobs::submit))
            .headers(SUBMIT_HEADERS)
            .takes::<Job>()
            .answers::<JobView>(202, "The job is recorded and in the queue.")
            .answers::<JobView>(200, "The job was sent before, or has ended within the wait that was asked for.")
            .problems(&[
                Kind::BadRequest,
                Kind::Conflict,
                Kind::TooLarge,
                Kind::TooSlow,
                Kind::Invalid,
                Kind::QuotaExceeded,
            ]),
        Route::new(Method::GET, "/v1/jobs", "list_jobs", "Lists jobs, the newest first.", get(jobs::list))
            .query::<ListQuery>()
            .answers::<JobList>(200, "A page of jobs.")
            .problems(&[Kind::BadRequest, Kind::Invalid]),
        Route::new(Method::GET, "/v1/jobs/{id}", "show_job", "Shows a job.", get(jobs::show))
            .answers::<JobView>(200, "The job as it stands now.")
            .problems(&[Kind::NotFound]),
        Route::new(
            Method::DELETE,
            "/v1/jobs/{id}",
            "delete_job",
            "Deletes a job that has ended, with its pictures.",
            delete(jobs::delete),
        )
        .answers_nothing(204, "It is gone.")
        .problems(&[Kind::NotFound, Kind::Conflict]),
        Route::new(
            Method::POST,
            "/v1/jobs/{id}/cancel",
            "cancel_job",
            "Cancels a job unless it has ended.",
            post(jobs::cancel),
        )
        .answers::<JobView>(200, "The job as it stands now.")
        .problems(&[Kind::NotFound]),
        Route::new(
            Method::POST,
            "/v1/jobs/{id}/again",
            "retry_job",
            "Runs a job again that has ended without its pictures.",
            post(jobs::again),
        )
        .answers::<JobView>(202, "It is in the queue again.")
        .problems(&[Kind::NotFound, Kind::Conflict, Kind::QuotaExceeded]),
        Route::new(
            Method::GET,
            "/v1/jobs/{id}/events",
            "watch_job",
            "Streams what happens to a job, until its end.",
            get(events::of_job),
        )
        .headers(RESUME)
        .answers_raw(
            200,
            "A snapshot (`JobView`), then events (`JobUpdate`); the last one has the whole job.",
            "text/event-stream",
        )
        .problems(&[Kind::NotFound, Kind::QuotaExceeded]),
        Route::new(
            Method::GET,
            "/v1/events",
            "watch_jobs",
            "Streams what happens to all jobs of the tenant.",
            get(events::of_tenant),
        )
        .headers(RESUME)
        .answers_raw(200, "A snapshot (`Snapshot`), then events (`JobUpdate`).", "text/event-stream")
        .problems(&[Kind::QuotaExceeded]),
        Route::new(Method::GET, "/v1/jobs/{id}/images/{n}", "show_image", "A picture of a job.", get(jobs::image))
            .query::<ImageQuery>()
            .answers_raw(200, "The picture.", "image/*")
            .answers_nothing(307, "Where the picture is, for a few minutes.")
            .problems(&[Kind::BadRequest, Kind::NotFound]),
        Route::new(
            Method::GET,
            "/v1/jobs/{id}/previews/{n}",
            "show_preview",
            "A small picture on the way.",
            get(jobs::preview),
        )
        .query::<PreviewQuery>()
        .answers_raw(200, "The preview.", "image/jpeg")
        .problems(&[Kind::BadRequest, Kind::NotFound]),
        Route::new(
            Method::GET,
            "/v1/jobs/{id}/subject",
            "show_subject",
            "The picture of a job's subject.",
            get(jobs::subject),
        )
        .answers_raw(200, "The picture.", "image/*")
        .problems(&[Kind::NotFound]),
    ]
}

fn upload_routes() -> Vec<Route> {
    vec![
        Route::new(
            Method::POST,
            "/v1/images",
            "store_image",
            "Stores a subject's picture.",
            post(uploads::store_image),
        )
        .takes_raw(&["image/*"])
        .answers::<StoredPicture>(201, "How jobs name it.")
        .problems(&[Kind::TooLarge, Kind::TooSlow, Kind::Invalid]),
        Route::new(
            Method::POST,
            "/v1/uploads",
            "begin_upload",
            "Prepares to upload a picture to the store.",
            post(uploads::begin),
        )
        .takes::<UploadRequest>()
        .answers::<Upload>(201, "Where and how the picture is sent.")
        .problems(&[Kind::BadRequest, Kind::TooLarge, Kind::TooSlow, Kind::Invalid]),
        Route::new(
            Method::PUT,
            "/v1/uploads/{id}",
            "receive_upload",
            "Takes an upload's bytes, where the store does not.",
            put(uploads::receive),
        )
        .takes_raw(&["image/*"])
        .answers_nothing(204, "They are stored.")
        .problems(&[Kind::NotFound, Kind::Conflict, Kind::TooLarge, Kind::TooSlow]),
        Route::new(
            Method::POST,
            "/v1/uploads/{id}/complete",
            "complete_upload",
            "Ends an upload.",
            post(uploads::complete),
        )
        .answers::<StoredPicture>(200, "How jobs name the picture.")
        .problems(&[Kind::NotFound, Kind::Conflict, Kind::TooLarge, Kind::Invalid]),
    ]
}

fn batch_routes() -> Vec<Route> {
    vec![
        Route::new(Method::POST, "/v1/batches", "send_batch", "Sends many jobs, one a line.", post(batches::send))
            .headers(BATCH_HEADERS)
            .takes_raw(batches::MEDIA_TYPES)
            .answers::<BatchView>(202, "All lines were read: each is a job in the queue, or an error.")
            .problems(&[
                Kind::BadRequest,
                Kind::TooLarge,
                Kind::TooSlow,
                Kind::MediaType,
                Kind::Invalid,
                Kind::QuotaExceeded,
            ]),
        Route::new(Method::GET, "/v1/batches", "list_batches", "Lists batches, the newest first.", get(batches::list))
            .query::<BatchQuery>()
            .answers::<BatchList>(200, "A page of batches.")
            .problems(&[Kind::BadRequest, Kind::Invalid]),
        Route::new(Method::GET, "/v1/batches/{id}", "show_batch", "Shows a batch.", get(batches::show))
            .answers::<BatchView>(200, "The batch as it stands now.")
            .problems(&[Kind::NotFound]),
        Route::new(
            Method::POST,
            "/v1/batches/{id}/cancel",
            "cancel_batch",
            "Cancels the jobs of a batch that have not ended.",
            post(batches::cancel),
        )
        .answers::<BatchView>(202, "They are being cancelled.")
        .problems(&[Kind::NotFound]),
        Route::new(
            Method::GET,
            "/v1/batches/{id}/results",
            "show_batch_results",
            "Streams what became of each line, in their order.",
            get(batches::results),
        )
        .answers_raw(200, "A `JobView` a line, or `{line, error}`.", "application/x-ndjson")
        .problems(&[Kind::NotFound, Kind::QuotaExceeded]),
    ]
}

fn general_routes() -> Vec<Route> {
    vec![
        Route::new(
            Method::GET,
            "/v1/limits",
            "show_limits",
            "What the tenant may do, and has used.",
            get(limits::show),
        )
        .answers::<LimitsView>(200, "The limits."),
        Route::new(
            Method::GET,
            "/v1/callback-secret",
            "show_callback_secret",
            "The secret that the tenant's callbacks are signed with.",
            get(callback_secret::show),
        )
        .answers::<CallbackSecretView>(200, "The secret; during a rotation the old and the new one.")
        .problems(&[Kind::NotFound]),
        Route::new(Method::GET, "/v1/usage", "show_usage", "Sums what jobs have used.", get(usage::show))
            .query::<UsageQuery>()
            .answers::<UsageList>(200, "The sums.")
            .problems(&[Kind::BadRequest, Kind::Invalid]),
        Route::new(
            Method::POST,
            "/v1/session",
            "sign_in",
            "Trades a key for a cookie, for the console.",
            post(session::sign_in),
        )
        .access(Access::Open)
        .takes::<SessionRequest>()
        .answers_nothing(204, "The cookie is set.")
        .problems(&[
            Kind::BadRequest,
            Kind::RateLimited,
            Kind::Unauthorized,
            Kind::Forbidden,
            Kind::TooLarge,
            Kind::TooSlow,
            Kind::Invalid,
        ]),
        Route::new(Method::GET, "/v1/session", "show_session", "Who the caller is.", get(session::show))
            .access(Access::AnyKey)
            .answers::<SessionView>(200, "The tenant and the scopes."),
        Route::new(Method::DELETE, "/v1/session", "sign_out", "Removes the cookie.", delete(session::sign_out))
            .access(Access::Open)
            .answers_nothing(204, "The cookie is removed.")
            .problems(&[Kind::Forbidden]),
        Route::new(Method::GET, "/v1/openapi.json", "show_openapi", "This document.", get(openapi::show))
            .access(Access::Open)
            .answers_raw(200, "The document.", "application/json"),
        Route::new(Method::GET, "/livez", "livez", "Whether the process lives.", get(health::live))
            .access(Access::Open)
            .answers_raw(200, "It does.", "text/plain"),
        Route::new(Method::GET, "/readyz", "readyz", "Whether the process can work.", get(health::ready))
            .access(Access::Open)
            .answers_raw(200, "It can.", "text/plain")
            .answers_raw(503, "It cannot; a line says why.", "text/plain"),
    ]
}

/// The problems of requests about dead letters.
const LETTER_PROBLEMS: &[Kind] = &[Kind::BadRequest, Kind::Conflict, Kind::TooLarge, Kind::TooSlow, Kind::Invalid];

fn admin_routes() -> Vec<Route> {
    let routes = vec![
        Route::new(
            Method::GET,
            "/admin/queues",
            "list_queues",
            "Lists queues and how many tasks wait in each.",
            get(admin::list_queues),
        )
        .answers::<QueueList>(200, "All queues."),
        Route::new(
            Method::GET,
            "/admin/dead-letters",
            "list_dead_letters",
            "Lists tasks that were parked, the oldest of each queue first.",
            get(admin::list_letters),
        )
        .query::<LetterQuery>()
        .answers::<LetterList>(200, "A page of dead letters.")
        .problems(&[Kind::BadRequest, Kind::Invalid]),
        Route::new(
            Method::POST,
            "/admin/dead-letters/redrive",
            "redrive_dead_letters",
            "Publishes parked tasks again, if their number is confirmed.",
            post(admin::redrive_letters),
        )
        .takes::<LettersRequest>()
        .answers::<LettersSettled>(200, "How many there are, or how many were redriven.")
        .problems(LETTER_PROBLEMS),
        Route::new(
            Method::POST,
            "/admin/dead-letters/drop",
            "drop_dead_letters",
            "Deletes parked tasks, if their number is confirmed.",
            post(admin::drop_letters),
        )
        .takes::<LettersRequest>()
        .answers::<LettersSettled>(200, "How many there are, or how many were deleted.")
        .problems(LETTER_PROBLEMS),
        Route::new(
            Method::GET,
            "/admin/workers",
            "list_workers",
            "Lists the processes that live.",
            get(admin::list_workers),
        )
        .answers::<WorkerList>(200, "The processes."),
        Route::new(
            Method::GET,
            "/admin/tenants",
            "list_tenants",
            "Lists tenants, and what they use now.",
            get(admin::list_tenants),
        )
        .answers::<TenantList>(200, "The tenants."),
        Route::new(
            Method::POST,
            "/admin/refill",
            "refill_queues",
            "Publishes the jobs again that have a record and no result.",
            post(admin::refill),
        )
        .answers::<Refilled>(200, "How many there were."),
    ];
    routes.into_iter().map(|route| route.access(Access::Admin)).collect()
}

/// The schemas of events, which no JSON answer names.
pub(crate) type EventSchemas = (JobUpdate, Snapshot);
