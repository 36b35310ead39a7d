//! The channels that usage reports come over.

/// Declares the channels once: each with its name.
macro_rules! channels {
    ($($(#[$meaning:meta])* $name:ident $text:literal)*) => {
        /// Over what a gateway reports usage. Whatever takes what a channel carries only translates it, and hands it to
        /// [`Reports`](super::Reports).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Channel {
            $($(#[$meaning])* $name,)*
        }

        impl Channel {
            /// All there are: the workers serve each of them.
            pub const ALL: &'static [Channel] = &[$(Channel::$name,)*];

            /// The name, as the log has it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Channel::$name => $text,)*
                }
            }
        }
    };
}

channels! {
    /// A rate-limit call when the response is over (`apply_on_stream_done`), in the domain `tiergate.report`.
    RateLimit "rate_limit"
    /// The entry of the request's end in Envoy's access log, which it streams over gRPC.
    AccessLog "access_log"
}
