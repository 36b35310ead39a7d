//! YAML as a tree whose every key and value knows where it stands, and the reading of typed values out of it.

mod block;
mod reader;
mod tree;

pub use self::block::{block_header, inside_block, shift};
pub use self::reader::{Field, Fields, Report, all};
pub use self::tree::{Key, Node, ParseFault, Value, parse};
