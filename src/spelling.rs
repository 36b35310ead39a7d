//! What somebody probably meant.

/// The candidate that `typed` was probably meant to be, which it is not. Case makes no difference in how near they are.
#[must_use]
pub fn did_you_mean<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let bound = match typed.chars().count() {
        0..=3 => 1,
        4..=7 => 2,
        _ => 3,
    };
    let lower = typed.to_lowercase();
    let length = lower.chars().count();
    candidates
        .into_iter()
        .filter(|candidate| *candidate != typed)
        .map(|candidate| (candidate.to_lowercase(), candidate))
        // The distance is at least that of the lengths.
        .filter(|(other, _)| other.chars().count().abs_diff(length) <= bound)
        .map(|(other, candidate)| (strsim::osa_distance(&lower, &other), candidate))
        .filter(|(distance, _)| *distance <= bound)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
