//! What policies say, as data: rules of an AuthPolicy, their conditions and values, limits, and rules of RBAC.
//!
//! Nothing here decides: conditions and values are evaluated, and the gate has functions over them.

mod auth;
mod condition;
mod endpoint;
mod limit;
mod rbac;
mod references;
mod value;

pub use self::auth::{
    AccessRule, AuthRules, Authentication, Authorization, DenyWithSpec, Item, Method, Reviewer, Rule, Shape, TierLookup,
};
pub use self::condition::{Condition, Operator, Pattern, Patterns};
pub use self::endpoint::Endpoint;
pub use self::limit::{Counts, LimitKind, TokenAdmission};
pub use self::rbac::{PolicyRule, Subject};
pub use self::references::Fault;
pub use self::value::ValueSource;
