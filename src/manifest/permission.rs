//! What a rule of a role permits, as one thing: the product of its lists may be of any size.

use std::collections::BTreeSet;
use std::fmt;

use super::few::few;
use crate::rules::PolicyRule;

/// Verbs on the names of resources, each with each; `*` is every one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Permission([BTreeSet<String>; 3]);

const ANY: &str = "*";
/// In how many pieces what is left of a permission is followed.
const PIECES: usize = 20;

// === impl Permission ===

impl Permission {
    /// `None` if the rule permits nothing of resources.
    #[must_use]
    pub fn of(rule: &PolicyRule) -> Option<Self> {
        let set = |list: &[String]| list.iter().cloned().collect::<BTreeSet<_>>();
        let any = [ANY.to_owned()];
        let names = if rule.resource_names.is_empty() { &any } else { rule.resource_names.as_slice() };
        let lists = [set(&rule.verbs), set(&rule.resources), set(names)];
        lists.iter().all(|list| !list.is_empty()).then_some(Permission(lists))
    }

    /// What of it none of `others` permits, in pieces; the whole where that takes too many of them.
    #[must_use]
    pub fn without<'p>(&self, others: impl IntoIterator<Item = &'p Permission>) -> Vec<Permission> {
        let mut left = vec![self.clone()];
        for other in others {
            left = left.iter().flat_map(|piece| piece.minus(other)).collect();
            if left.is_empty() || left.len() > PIECES {
                break;
            }
        }
        if left.len() > PIECES { vec![self.clone()] } else { left }
    }

    /// One piece for each list that `other` does not have all of.
    fn minus(&self, other: &Permission) -> Vec<Permission> {
        let mut pieces = Vec::new();
        // What both have in the lists that were looked at, and all of the others.
        let mut common = self.clone();
        for (at, others) in other.0.iter().enumerate() {
            let mut piece = common.clone();
            let (Some(common), Some(missing)) = (common.0.get_mut(at), piece.0.get_mut(at)) else { continue };
            let is_others = |text: &String| others.contains(ANY) || others.contains(text);
            common.retain(|text| is_others(text));
            missing.retain(|text| !is_others(text));
            if common.is_empty() {
                return vec![self.clone()];
            }
            if !missing.is_empty() {
                pieces.push(piece);
            }
        }
        pieces
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Permission([verbs, resources, names]) = self;
        let verbs: Vec<String> = verbs.iter().map(|verb| format!("`{verb}`")).collect();
        write!(f, "{} on {}", few(verbs.iter().map(String::as_str)), few(resources.iter().map(String::as_str)))?;
        match names.contains(ANY) {
            true => Ok(()),
            false => write!(f, " {}", few(names.iter().map(String::as_str))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permission(verbs: &[&str], resources: &[&str], names: &[&str]) -> Permission {
        let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let (verbs, resources, resource_names) = (owned(verbs), owned(resources), owned(names));
        Permission::of(&PolicyRule { verbs, resources, resource_names, api_groups: Vec::new() }).unwrap()
    }

    fn left(of: &Permission, others: &[Permission]) -> Vec<String> {
        of.without(others).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_left_of_a_permission_is_what_no_other_has() {
        let all = permission(&["get", "post"], &["models", "pods"], &["a", "b"]);
        let none: [&str; 0] = [];
        assert_eq!(left(&all, &[]), ["`get`, `post` on models, pods a, b"]);
        assert_eq!(left(&all, std::slice::from_ref(&all)), none);
        assert_eq!(
            left(&all, &[permission(&["get", "post"], &["*"], &["b", "c"])]),
            ["`get`, `post` on models, pods a"]
        );
        // In other rules, the same.
        let parts = ["get", "post"].map(|verb| permission(&[verb], &["models", "pods"], &[]));
        assert_eq!(left(&all, &parts), none);
        assert_eq!(
            left(&all, &[permission(&["*"], &["models"], &["a"])]),
            ["`get`, `post` on pods a, b", "`get`, `post` on models b"]
        );
        assert_eq!(left(&all, &[permission(&["list"], &["*"], &[])]), ["`get`, `post` on models, pods a, b"]);
        // Every name is more than each that is there.
        assert_eq!(
            left(&permission(&["get"], &["models"], &[]), &[permission(&["get"], &["models"], &["a"])]),
            ["`get` on models"]
        );
    }

    #[test]
    fn a_permission_in_too_many_pieces_is_left_whole() {
        let names: Vec<String> = (0..40).map(|number| number.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let all = permission(&names, &names, &names);
        let others: Vec<Permission> = names.iter().map(|name| permission(&[name], &[name], &[name])).collect();
        assert_eq!(all.without(&others), [all]);
    }
}
