//! Why a `curl` line cannot be followed.

/// Why a line cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CurlError {
    #[error("the curl line has a quote or `$(` that is not closed, or a backslash at its end")]
    Words,
    #[error("the line does not start with `curl`")]
    NotCurl,
    #[error("curl's option `{0}` is not known here; leave it out if it does not change the request")]
    Unknown(String),
    #[error("curl's option `{0}` needs a value")]
    NoValue(String),
    #[error("the curl line has no URL")]
    NoUrl,
    #[error("the URL is not in the curl line: {0}; put its value there")]
    UnknownUrl(&'static str),
    #[error("the curl line has several URLs; explain one at a time")]
    SeveralUrls,
    #[error("curl's header `{0}` is not `Name: value`; a file of headers is not read")]
    Header(String),
}
