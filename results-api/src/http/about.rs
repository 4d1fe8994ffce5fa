//! About: what there is to run, and who runs it.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use serde_json::{Value, json};
use tidemill_core::nearest::{did_you_mean, nearest};

use super::Served;
use super::asked::part;
use super::problem::Problem;

/// The name at the end of the address.
pub(super) struct Name(String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self(part(parts, state, "name").await?))
    }
}

/// `GET /v1/tasks`
pub(super) async fn tasks(State(served): State<Arc<Served>>) -> Json<Value> {
    Json(json!({ "tasks": served.api.catalogue.tasks }))
}

/// `GET /v1/tasks/{name}`
pub(super) async fn task(State(served): State<Arc<Served>>, Name(name): Name) -> Result<Json<Value>, Problem> {
    let tasks = &served.api.catalogue.tasks;
    let names = || tasks.iter().filter_map(|task| task["about"]["name"].as_str());
    let found = tasks.iter().find(|task| task["about"]["name"] == *name);
    found.cloned().map(Json).ok_or_else(|| {
        let near = did_you_mean(&nearest(&name, names()));
        Problem::not_found("unknown_task", format!("no task is called {name:?}{near}"))
    })
}

/// `GET /v1/models`
pub(super) async fn models(State(served): State<Arc<Served>>) -> Json<Value> {
    Json(json!({ "models": served.api.catalogue.models }))
}

/// `GET /v1/workers`
pub(super) async fn workers(State(served): State<Arc<Served>>) -> Result<Json<Value>, Problem> {
    Ok(Json(json!({ "workers": served.api.store.workers().await? })))
}
