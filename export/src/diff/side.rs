//! What is compared: a bundle, or a graph in a text file.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use lfm_graphs::text::{MAX_TEXT, TextError};
use lfm_graphs::{Graph, VerifyError, verify};
use lfm_runtime::Model;

/// Why there is nothing to compare.
#[derive(Debug, thiserror::Error)]
pub enum SideError {
    /// The bundle is not sound.
    #[error(transparent)]
    Bundle(#[from] lfm_runtime::Error),
    /// The text could not be read.
    #[error("cannot read the graph {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The text is no graph.
    #[error("cannot read the graph {}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Line, column, what was found.
        source: TextError,
    },
    /// The graph breaks rules.
    #[error("the graph {} breaks {} rules: {first}", path.display(), errors.len())]
    Rules {
        /// The file.
        path: PathBuf,
        /// The first of them.
        first: String,
        /// All of them.
        errors: Vec<VerifyError>,
    },
}

/// A bundle, or a graph alone.
#[derive(Debug)]
pub enum Side {
    /// A bundle.
    Bundle(Model),
    /// A graph out of a text file.
    Graph(Graph),
}

impl Side {
    /// Opens a file: a graph text if its name ends in `.ron`, else a bundle.
    ///
    /// # Errors
    /// When it is not a sound one.
    pub fn open(path: &Path) -> Result<Side, SideError> {
        if path.extension().is_none_or(|extension| extension != "ron") {
            return Ok(Side::Bundle(Model::open(path)?));
        }
        let read = |source| SideError::Read { path: path.to_path_buf(), source };
        let mut text = String::new();
        // One byte more than may be: a longer text is refused, whatever the length of the file is said to be.
        let file = File::open(path).map_err(read)?;
        file.take(MAX_TEXT as u64 + 1).read_to_string(&mut text).map_err(read)?;
        let graph =
            Graph::parse(&text).map_err(|source| SideError::Text { path: path.to_path_buf(), source })?;
        let errors = verify(&graph);
        match errors.first().map(ToString::to_string) {
            None => Ok(Side::Graph(graph)),
            Some(first) => Err(SideError::Rules { path: path.to_path_buf(), first, errors }),
        }
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        match self {
            Side::Bundle(model) => model.graph(),
            Side::Graph(graph) => graph,
        }
    }

    /// The bundle, if it is one.
    pub fn bundle(&self) -> Option<&Model> {
        match self {
            Side::Bundle(model) => Some(model),
            Side::Graph(_) => None,
        }
    }
}
