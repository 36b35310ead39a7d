//! Lists of names in messages, which have a bound.

/// How many names are listed.
const NAMES: usize = 5;

/// The first names of a list, and how many more there are.
pub fn few<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let mut names = names.into_iter();
    let mut list = names.by_ref().take(NAMES).collect::<Vec<_>>().join(", ");
    match names.count() {
        0 => {}
        more => list.push_str(&format!(" and {more} more")),
    }
    list
}
