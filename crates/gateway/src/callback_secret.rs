//! `GET /v1/callback-secret`: how a tenant verifies that a callback is ours.

use axum::{Json, extract::State};
use echogen_ports::{Secret, callback_secrets_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Gateway,
    authentication::Caller,
    problem::{Kind, Problem},
};

/// What a tenant's callbacks are signed with.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct CallbackSecretView {
    /// In the form of Standard Webhooks: `whsec_` and 32 bytes in base64. Any of them signs.
    pub secrets: Vec<String>,
}

/// `GET /v1/callback-secret`
pub(crate) async fn show(State(gateway): State<Gateway>, caller: Caller) -> Result<Json<CallbackSecretView>, Problem> {
    let of_tenant = |secret: &Secret| callback_secrets_of(secret, caller.tenant.as_str());
    let secrets = gateway.ports.callbacks_secret.as_ref().map(of_tenant).unwrap_or_default();
    if secrets.is_empty() {
        return Err(Problem::new(Kind::NotFound, "callbacks are not signed here"));
    }
    Ok(Json(CallbackSecretView { secrets: secrets.iter().map(|secret| secret.expose().to_owned()).collect() }))
}
