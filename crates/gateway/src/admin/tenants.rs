//! `GET /admin/tenants`: who may use the installation, and how much of it they use. No key and no hash of one.

use axum::{Json, extract::State};
use echogen_tenants::{Limits, Scope, TenantName};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Gateway, limits::held_key};

/// All tenants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TenantList {
    /// The tenants, by their names.
    pub data: Vec<TenantView>,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TenantView {
    /// Its name.
    pub tenant: TenantName,
    /// Its keys.
    pub keys: Vec<KeyView>,
    /// How much it may use.
    pub limits: Limits,
    /// Its jobs that have not ended; absent while that cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<u64>,
    /// The pictures that it has asked for on this day (UTC); absent while that cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub today: Option<u64>,
}

/// What may be known of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyView {
    /// Its public id.
    pub id: String,
    /// What it may be used for.
    pub scopes: Vec<Scope>,
    /// When it ends; null: never.
    pub expires: Option<Timestamp>,
}

/// `GET /admin/tenants`
pub(crate) async fn list(State(gateway): State<Gateway>) -> Json<TenantList> {
    let tenants = gateway.tenants.current();
    let mut data = Vec::new();
    for (name, tenant) in tenants.iter() {
        let keys = tenants.keys_of(name).into_iter().map(|key| KeyView {
            id: key.id.to_string(),
            scopes: key.scopes.clone(),
            expires: key.expires,
        });
        data.push(TenantView {
            tenant: name.clone(),
            keys: keys.collect(),
            limits: tenant.limits,
            held: gateway.ports.quota.held(&held_key(name.as_str())).await.ok(),
            today: gateway.pictures_today(name).await,
        });
    }
    Json(TenantList { data })
}
