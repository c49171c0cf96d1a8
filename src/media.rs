//! Files: where received ones are kept.

mod folder;

pub use folder::{Folder, file_name};
