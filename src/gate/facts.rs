//! A request as its second asker tells it: fact by fact.
//!
//! In the classic setup limits are asked by a call of their own, which has no request, but entries of a descriptor. What an
//! entry does not say is not known, and that is something else than what the request does not have: a limit that looks at
//! what nobody told must not be taken for one that does not match.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::denial::{Code, Denial};
use crate::expression::{Properties, Reference};
use crate::request::{Headers, OperatorModel, Request};

/// Headers that are told whole, and properties of the identity that are told one by one, at most.
const MAX_NAMES: usize = 256;

/// What is told about one request.
#[derive(Debug, Default)]
pub struct Facts {
    method: Option<String>,
    host: Option<String>,
    scheme: Option<String>,
    /// With the query.
    path: Option<String>,
    headers: HashMap<String, String>,
    /// Headers that are known not to have been sent.
    unsent: BTreeSet<String>,
    identity: KnownIdentity,
    /// What filters of other names made, by their names; all that the limits look at.
    filters: Option<Vec<(Arc<str>, Properties<'static>)>>,
    /// `namespace/name` of the Gateway.
    pub gateway: Option<String>,
    /// The name of its listener.
    pub listener: Option<String>,
    /// The tier that was enforced: for metrics and answers, never for a decision.
    pub tier: Option<String>,
    /// Likewise, the model.
    pub model: Option<String>,
    /// Likewise, the user.
    pub user: Option<String>,
}

/// What is told about the caller.
#[derive(Debug, Default)]
enum KnownIdentity {
    #[default]
    Nothing,
    /// Some properties, as text. It is not known whether there are others.
    Properties(Value),
    /// All of it; null if there is no identity.
    Whole(Value),
}

/// Keys of entries.
const AUTH: &str = "auth";
const IDENTITY: &str = "auth.identity";
const PROPERTY: &str = "auth.identity.";
const HEADERS: &str = "request.headers";
const HEADER: &str = "request.headers.";

// === impl Facts ===

impl Facts {
    /// Takes the entry `key`; one whose key says nothing about a request is none of ours.
    ///
    /// # Errors
    ///
    /// The value is not what the key asks for, or contradicts another entry. The text says it, without the value.
    pub fn tell(&mut self, key: &str, value: &str) -> Result<(), String> {
        let contradicts = || Err(format!("entry `{key}` contradicts another one"));
        let known = match key {
            "request.method" => &mut self.method,
            "request.host" => &mut self.host,
            "request.scheme" => &mut self.scheme,
            "request.path" => &mut self.path,
            "tiergate.gateway" => &mut self.gateway,
            "tiergate.listener" => &mut self.listener,
            "tiergate.tier" => &mut self.tier,
            "tiergate.model" => &mut self.model,
            "tiergate.user" => &mut self.user,
            AUTH => return self.tell_filters(value),
            IDENTITY => return self.tell_identity(value),
            HEADERS => return self.tell_headers(value),
            _ => {
                return match (key.strip_prefix(PROPERTY), key.strip_prefix(HEADER)) {
                    (Some(name), _) => self.tell_property(name, value),
                    (None, Some(name)) => self.tell_header(name, Some(value)),
                    (None, None) => Ok(()),
                };
            }
        };
        match known {
            Some(told) if told != value => contradicts(),
            told => {
                *told = Some(value.to_owned());
                Ok(())
            }
        }
    }

    fn tell_filters(&mut self, value: &str) -> Result<(), String> {
        let Ok(Value::Object(told)) = serde_json::from_str(value) else {
            return Err(format!("entry `{AUTH}` is not a JSON object"));
        };
        if told.contains_key("identity") {
            return Err(format!("entry `{AUTH}` tells the identity, which has the entry `{IDENTITY}`"));
        }
        let told: Vec<_> = told.into_iter().map(|(name, made)| (name.into(), Properties::Value(made))).collect();
        match &self.filters {
            Some(others) if *others != told => Err(format!("entry `{AUTH}` contradicts another one")),
            _ => {
                self.filters = Some(told);
                Ok(())
            }
        }
    }

    fn tell_identity(&mut self, value: &str) -> Result<(), String> {
        let whole = match serde_json::from_str(value) {
            Ok(whole @ (Value::Object(_) | Value::Null)) => whole,
            Ok(_) | Err(_) => return Err(format!("entry `{IDENTITY}` is not a JSON object, and not null")),
        };
        match &self.identity {
            KnownIdentity::Whole(told) if *told != whole => Err(format!("entry `{IDENTITY}` contradicts another one")),
            KnownIdentity::Properties(_) => Err(whole_and_parts()),
            KnownIdentity::Nothing | KnownIdentity::Whole(_) => {
                self.identity = KnownIdentity::Whole(whole);
                Ok(())
            }
        }
    }

    fn tell_property(&mut self, name: &str, value: &str) -> Result<(), String> {
        if let KnownIdentity::Nothing = self.identity {
            self.identity = KnownIdentity::Properties(Value::Object(Map::new()));
        }
        let KnownIdentity::Properties(Value::Object(told)) = &mut self.identity else { return Err(whole_and_parts()) };
        if told.len() >= MAX_NAMES {
            return Err(format!("there are more than {MAX_NAMES} entries `{PROPERTY}…`"));
        }
        match told.insert(name.to_owned(), Value::String(value.to_owned())) {
            Some(other) if other != value => Err(format!("entry `{PROPERTY}{name}` contradicts another one")),
            _ => Ok(()),
        }
    }

    fn tell_headers(&mut self, value: &str) -> Result<(), String> {
        let wrong = || format!("entry `{HEADERS}` is not a JSON object of texts and nulls");
        let Ok(Value::Object(headers)) = serde_json::from_str(value) else { return Err(wrong()) };
        headers.iter().try_for_each(|(name, value)| match value {
            Value::String(value) => self.tell_header(name, Some(value)),
            Value::Null => self.tell_header(name, None),
            _ => Err(wrong()),
        })
    }

    fn tell_header(&mut self, name: &str, value: Option<&str>) -> Result<(), String> {
        let name = name.to_ascii_lowercase();
        if self.headers.len() + self.unsent.len() >= MAX_NAMES {
            return Err(format!("more than {MAX_NAMES} headers are told"));
        }
        let agrees = match value {
            Some(value) => !self.unsent.contains(&name) && self.headers.get(&name).is_none_or(|other| other == value),
            None => !self.headers.contains_key(&name),
        };
        if !agrees {
            return Err(format!("entry `{HEADER}{name}` contradicts another one"));
        }
        match value {
            Some(value) => drop(self.headers.insert(name, value.to_owned())),
            None => drop(self.unsent.insert(name)),
        }
        Ok(())
    }

    /// The request, as far as it is told.
    ///
    /// # Errors
    ///
    /// Its method, host or path is not: no route can be found without them.
    pub fn request(&self) -> Result<Request<'_>, Denial> {
        let told =
            |name: &str, fact: &'_ Option<String>| fact.as_deref().map(str::len).ok_or_else(|| untold(name, "a route"));
        told("request.method", &self.method)?;
        told("request.host", &self.host)?;
        told("request.path", &self.path)?;
        let (path, query) = Request::split_path(self.path.as_deref().unwrap_or_default());
        Ok(Request {
            method: self.method.as_deref().unwrap_or_default(),
            host: self.host.as_deref().unwrap_or_default(),
            scheme: self.scheme.as_deref().unwrap_or_default(),
            path,
            query,
            headers: Headers::Map(&self.headers),
            gateway: self.gateway.as_deref(),
            listener: self.listener.as_deref(),
            port: None,
            peer: None,
            sni: None,
            // Access was checked by whoever says who calls.
            model: OperatorModel::Unset,
            body: None,
        })
    }

    /// `auth.identity`, if there is one.
    #[must_use]
    pub fn identity(&self) -> Option<&Value> {
        match &self.identity {
            KnownIdentity::Properties(told) | KnownIdentity::Whole(told) => Some(told).filter(|told| told.is_object()),
            KnownIdentity::Nothing => None,
        }
    }

    /// `auth.<name>`, of every other name.
    #[must_use]
    pub fn filters(&self) -> &[(Arc<str>, Properties<'static>)] {
        self.filters.as_deref().unwrap_or_default()
    }

    /// Checks that `reference`, which `whose` looks at, was told: that it is there, or that it is not.
    ///
    /// # Errors
    ///
    /// The entry that is missing.
    pub fn check(&self, reference: &Reference, whose: &str) -> Result<(), Denial> {
        let property = |name: &str| match &self.identity {
            KnownIdentity::Whole(_) => true,
            KnownIdentity::Properties(told) => told.get(name).is_some(),
            KnownIdentity::Nothing => false,
        };
        match reference {
            Reference::Auth if self.filters.is_none() => Err(untold(AUTH, whose)),
            Reference::Auth => self.check(&Reference::Member("identity".to_owned()), whose),
            Reference::Member(member) if member == "identity" => match &self.identity {
                KnownIdentity::Whole(_) => Ok(()),
                KnownIdentity::Properties(_) | KnownIdentity::Nothing => Err(untold(IDENTITY, whose)),
            },
            Reference::Property(member, name) if member == "identity" => match property(name) {
                true => Ok(()),
                false => Err(untold(&format!("{PROPERTY}{name}"), whose)),
            },
            Reference::Member(_) | Reference::Property(..) if self.filters.is_some() => Ok(()),
            Reference::Member(_) | Reference::Property(..) => Err(untold(AUTH, whose)),
            Reference::Attribute("scheme") if self.scheme.is_none() => Err(untold("request.scheme", whose)),
            // The rest is told by what `request` asks for: the path has the query.
            Reference::Attribute(_) => Ok(()),
            Reference::Header(name) => self.check_header(name, whose),
            Reference::Headers => {
                let denial = Denial::new(Code::RequestInvalid, "a limit looks at all headers, which no entry tells");
                Err(denial.detail(format!("{whose} looks at `{HEADERS}` as a whole: name the headers")))
            }
        }
    }

    /// Likewise, of the listener: where there are several, another one may have other limits.
    ///
    /// # Errors
    ///
    /// It was not told.
    pub fn check_listener(&self, whose: &str) -> Result<(), Denial> {
        if self.listener.is_some() { Ok(()) } else { Err(untold("tiergate.listener", whose)) }
    }

    /// Likewise, of one header.
    ///
    /// # Errors
    ///
    /// It was not told.
    pub fn check_header(&self, name: &str, whose: &str) -> Result<(), Denial> {
        let told = self.headers.contains_key(name) || self.unsent.contains(name);
        if told { Ok(()) } else { Err(untold(&format!("{HEADER}{name}"), whose)) }
    }
}

fn whole_and_parts() -> String {
    format!("entries `{IDENTITY}` and `{PROPERTY}…` stand together: tell the identity as a whole, or its properties")
}

fn untold(entry: &str, whose: &str) -> Denial {
    Denial::new(Code::RequestInvalid, format!("the descriptor has no entry `{entry}`"))
        .detail(format!("{whose} looks at it: without it nobody can tell which limits apply"))
}

#[cfg(test)]
mod tests;
