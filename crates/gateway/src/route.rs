//! What a route is: everything that the router, the OpenAPI document, the metrics and the tests need to know of it.

use axum::routing::MethodRouter;
use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::{Gateway, problem::Kind};

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// A key, or a session, with the scope `jobs`; it reaches its own tenant's things only.
    Tenant,
    /// The same, whatever its scopes.
    AnyKey,
    /// A key, or a session, with the scope `admin`, at the listener for it.
    Admin,
}

/// A schema, made when the document is.
pub(crate) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// What a request's body is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RequestBody {
    None,
    Json(SchemaOf),
    /// Raw bytes of one of these media types.
    Raw(&'static [&'static str]),
}

/// What an answer's body is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AnswerBody {
    None,
    Json(SchemaOf),
    /// Something else of a media type.
    Other(&'static str),
}

/// An answer that is no error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) about: &'static str,
    pub(crate) body: AnswerBody,
}

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its method.
    pub method: Method,
    /// Its path, with parameters such as `{id}`.
    pub path: &'static str,
    /// Its name, which is the `operationId` and a metric's label.
    pub name: &'static str,
    /// Who may call it.
    pub access: Access,
    pub(crate) about: &'static str,
    pub(crate) query: Option<SchemaOf>,
    pub(crate) headers: &'static [(&'static str, &'static str)],
    pub(crate) request: RequestBody,
    pub(crate) answers: Vec<Answer>,
    pub(crate) problems: &'static [Kind],
    pub(crate) handler: MethodRouter<Gateway>,
}

impl Route {
    pub(crate) fn new(
        method: Method,
        path: &'static str,
        name: &'static str,
        about: &'static str,
        handler: MethodRouter<Gateway>,
    ) -> Self {
        Self {
            method,
            path,
            name,
            access: Access::Tenant,
            about,
            query: None,
            headers: &[],
            request: RequestBody::None,
            answers: Vec::new(),
            problems: &[],
            handler,
        }
    }

    pub(crate) fn access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    pub(crate) fn query<T: JsonSchema>(self) -> Self {
        Self { query: Some(|generator| T::json_schema(generator)), ..self }
    }

    pub(crate) fn headers(self, headers: &'static [(&'static str, &'static str)]) -> Self {
        Self { headers, ..self }
    }

    pub(crate) fn takes<T: JsonSchema>(self) -> Self {
        Self { request: RequestBody::Json(|generator| generator.subschema_for::<T>()), ..self }
    }

    pub(crate) fn takes_raw(self, media_types: &'static [&'static str]) -> Self {
        Self { request: RequestBody::Raw(media_types), ..self }
    }

    pub(crate) fn answers<T: JsonSchema>(self, status: u16, about: &'static str) -> Self {
        self.answer(status, about, AnswerBody::Json(|generator| generator.subschema_for::<T>()))
    }

    pub(crate) fn answers_raw(self, status: u16, about: &'static str, media_type: &'static str) -> Self {
        self.answer(status, about, AnswerBody::Other(media_type))
    }

    pub(crate) fn answers_nothing(self, status: u16, about: &'static str) -> Self {
        self.answer(status, about, AnswerBody::None)
    }

    fn answer(mut self, status: u16, about: &'static str, body: AnswerBody) -> Self {
        self.answers.push(Answer { status, about, body });
        self
    }

    /// The problems of this route beside those of every route.
    pub(crate) fn problems(self, problems: &'static [Kind]) -> Self {
        Self { problems, ..self }
    }

    /// The names of the parameters in its path.
    pub fn parameters(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }
}
