//! Sessions as bytes: written and read as they come, in the format of `docs/session-format.md`.
//!
//! A file is bound to one bundle. Every length in it is compared with what the plan allows and with the length of the
//! file before anything is read, and content goes where it belongs at once, so reading takes no memory beyond that of the
//! session but for the note. [`Session::read_from`] is what a fuzz target calls.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use lfm_graphs::replace::{ReplaceError, Replacement};

use super::{Cpu, Engine, Session};
use crate::cpu::kernels::{KEY_GROUP, key_elements};
use crate::error::{Error, Result};
use crate::exec::{Content, Kind, Program, StateShape};

/// First 8 bytes of every session. The high bit, CR LF and ^Z make a copy in text mode visible.
pub const MAGIC: [u8; 8] = *b"\x89LFMS\r\n\x1a";
/// Version of the format that this module reads and writes.
pub const VERSION: u32 = 1;
/// Bytes of the header.
pub const HEADER_LEN: usize = 64;
/// Bytes of the hash at the end.
const HASH_LEN: usize = 32;
/// What the names of temporary files begin with.
const PARTIAL: &str = ".lfm-session.partial-";
/// Most bytes of a note.
pub const MAX_NOTE: usize = 16 << 20;

/// Why bytes are no session of a bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It is something else.
    #[error("it is no session: its first bytes are {found:02x?}, expected {MAGIC:02x?}")]
    Magic {
        /// The first bytes.
        found: [u8; 8],
    },
    /// It is of another version.
    #[error("it has version {found} of the format, expected {VERSION}")]
    Version {
        /// The version.
        found: u32,
    },
    /// Its states were computed by something else than a CPU.
    #[error("its states are those of backend {found}, expected 0, the CPU")]
    Backend {
        /// The backend.
        found: u32,
    },
    /// It is of another bundle.
    #[error("it belongs to bundle {found}, expected {expected}")]
    Bundle {
        /// The bundle's identity.
        found: String,
        /// The identity of the bundle at hand.
        expected: String,
    },
    /// A number is out of range.
    #[error("{what} is {found}, expected {least} to {most}")]
    Range {
        /// Which number.
        what: &'static str,
        /// The number.
        found: usize,
        /// Least that it may be.
        least: usize,
        /// Most that it may be.
        most: usize,
    },
    /// It is too short or too long.
    #[error("it has {found} bytes, expected {expected}")]
    Length {
        /// Its bytes.
        found: u64,
        /// What its header says.
        expected: u64,
    },
    /// Something has changed since it was written.
    #[error("it is damaged: its content does not have the hash at its end")]
    Hash,
    /// It cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A number within `least..=most`.
fn within(what: &'static str, found: u32, least: usize, most: usize) -> Result<usize, FileError> {
    let found = found as usize;
    if (least..=most).contains(&found) {
        Ok(found)
    } else {
        Err(FileError::Range { what, found, least, most })
    }
}

/// Writes, and hashes what is written.
struct Output<'a> {
    to: &'a mut dyn Write,
    hash: blake3::Hasher,
}

impl Output<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.to.write_all(bytes)
    }
}

/// Reads, and hashes what is read.
struct Input<'a> {
    from: &'a mut dyn Read,
    hash: blake3::Hasher,
}

impl Input<'_> {
    fn get(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.from.read_exact(bytes)?;
        self.hash.update(bytes);
        Ok(())
    }
}

/// What a header says, after magic, version, backend and bundle.
#[derive(Clone, Copy)]
struct Counts {
    positions: usize,
    checkpoints: usize,
    /// The position of the logits; 0 when there are none.
    logits: usize,
    note: usize,
}

/// Which elements of the states are in a file.
struct Layout<'a> {
    program: &'a Program,
    context: usize,
    /// Whether a state holds keys.
    keys: Vec<bool>,
}

impl<'a> Layout<'a> {
    fn new(program: &'a Program, context: usize) -> Layout<'a> {
        let mut keys = vec![false; program.states.len()];
        for step in program.steps() {
            if let Kind::Attention(attention) = &step.kind {
                keys[attention.keys] = true;
            }
        }
        Layout { program, context, keys }
    }

    /// The states with the parts of them that hold `positions` positions: how many, the elements from one to the next,
    /// and the elements of each.
    fn parts(&self, positions: usize) -> impl Iterator<Item = (&StateShape, [usize; 3])> {
        self.program.states.iter().zip(&self.keys).map(move |(shape, keys)| {
            let parts = match *shape {
                StateShape::Cache { kv, dim, .. } if *keys => {
                    [kv, key_elements(self.context, dim), key_elements(positions, dim)]
                }
                StateShape::Cache { kv, dim, .. } => [kv, self.context * dim, positions * dim],
                StateShape::Window { rows, channels } => [1, 0, rows * channels],
            };
            (shape, parts)
        })
    }

    /// Bytes of a file.
    fn bytes(&self, counts: Counts) -> u64 {
        let Counts { positions, checkpoints, logits, note } = counts;
        let (mut bytes, mut windows) = (0, 0);
        for (shape, [count, _, len]) in self.parts(positions) {
            match shape {
                StateShape::Cache { half, .. } => bytes += (count * len) as u64 * if *half { 2 } else { 4 },
                StateShape::Window { .. } => windows += 4 * len as u64,
            }
        }
        let logits = if logits > 0 { self.program.vocab } else { 0 };
        let words = positions + checkpoints + logits;
        bytes += windows * (checkpoints as u64 + 1) + 4 * words as u64;
        bytes + (HEADER_LEN + note + HASH_LEN) as u64
    }

    /// Hands the bytes of all states that hold `positions` positions to `each`.
    fn visit(
        &self,
        contents: &mut [Content],
        positions: usize,
        mut each: impl FnMut(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        for ((_, [count, stride, len]), content) in self.parts(positions).zip(contents) {
            for start in (0..count).map(|part| part * stride) {
                each(match content {
                    Content::Half(halves) => bytemuck::cast_slice_mut(&mut halves[start..start + len]),
                    Content::Single(floats) => bytemuck::cast_slice_mut(&mut floats[start..start + len]),
                })?;
            }
        }
        Ok(())
    }

    /// Clears the keys behind the last position in its group of 16, so that a file holds nothing but the session.
    fn clear_behind(&self, contents: &mut [Content], positions: usize) {
        fn clear<T: Copy + Default>(keys: &mut [T], group: usize, lane: usize) {
            for lanes in keys[group..].chunks_exact_mut(KEY_GROUP) {
                lanes[lane..].fill(T::default());
            }
        }
        let lane = positions % KEY_GROUP;
        let states = self.parts(positions).zip(&self.keys).zip(contents);
        for (((shape, [count, stride, len]), keys), content) in states {
            let StateShape::Cache { dim, .. } = *shape else { continue };
            if !keys || lane == 0 {
                continue;
            }
            for start in (0..count).map(|part| part * stride) {
                let group = len - KEY_GROUP * dim;
                match content {
                    Content::Half(halves) => clear(&mut halves[start..start + len], group, lane),
                    Content::Single(floats) => clear(&mut floats[start..start + len], group, lane),
                }
            }
        }
    }
}

/// The next number of a header.
fn number(header: &[u8; HEADER_LEN], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&header[at..at + 4]);
    u32::from_le_bytes(bytes)
}

/// What is kept in files: the states on the CPU.
fn stored(engine: &mut Engine) -> Result<&mut Cpu> {
    match engine {
        Engine::Cpu(cpu) => Ok(cpu),
        #[cfg(feature = "wgpu")]
        Engine::Gpu(_) => Err(Error::Argument(
            "sessions of backend wgpu are not kept in files, expected backend cpu".into(),
        )),
    }
}

impl Session {
    /// The identity of the bundle, as bytes.
    fn bundle(&self) -> [u8; 32] {
        blake3::Hash::from_hex(self.model.id()).map_or([0; 32], |id| *id.as_bytes())
    }

    /// Writes the session, with a note that whoever keeps it may want back.
    ///
    /// # Errors
    /// When `to` fails, or the session is not on the CPU.
    pub fn write_to(&mut self, to: &mut dyn Write, note: &[u8]) -> Result<()> {
        let fault = |source| Error::System { attempt: "cannot write a session".into(), source };
        let (bundle, positions) = (self.bundle(), self.past());
        if note.len() > MAX_NOTE {
            let message = format!("the note has {} bytes, expected at most {MAX_NOTE}", note.len());
            return Err(Error::Argument(message));
        }
        let Session { model, engine, tokens, checkpoints, after, after_position, .. } = self;
        let states = &mut stored(engine)?.states;
        let used = checkpoints.used();
        let layout = Layout::new(model.program(), states.context);
        layout.clear_behind(&mut states.contents, positions);

        let mut output = Output { to, hash: blake3::Hasher::new() };
        let mut write = || {
            output.put(&MAGIC)?;
            for number in [VERSION, 0] {
                output.put(&number.to_le_bytes())?;
            }
            output.put(&bundle)?;
            for number in [positions, used.len(), *after_position, note.len()] {
                output.put(&(number as u32).to_le_bytes())?;
            }
            output.put(bytemuck::cast_slice(tokens))?;
            for (position, _) in &used {
                output.put(&(*position as u32).to_le_bytes())?;
            }
            output.put(note)?;
            layout.visit(&mut states.contents, positions, |bytes| output.put(bytes))?;
            for (_, slot) in &used {
                output.put(bytemuck::cast_slice(states.kept(*slot)))?;
            }
            if *after_position > 0 {
                output.put(bytemuck::cast_slice(after))?;
            }
            let hash = output.hash.finalize();
            output.put(hash.as_bytes())
        };
        write().map_err(fault)
    }

    /// Takes over the session that the `len` bytes of `from` hold, and gives its note. Nothing is left of what the session
    /// held; where this fails, it is empty.
    ///
    /// # Errors
    /// When they are no session of this bundle that fits into the context, or have changed since they were written.
    pub fn read_from(&mut self, from: &mut dyn Read, len: u64) -> Result<Vec<u8>, FileError> {
        self.clear();
        let note = self.read(&mut Input { from, hash: blake3::Hasher::new() }, len);
        if note.is_err() {
            self.clear();
        }
        note
    }

    fn read(&mut self, input: &mut Input<'_>, len: u64) -> Result<Vec<u8>, FileError> {
        let least = (HEADER_LEN + HASH_LEN) as u64;
        if len < least {
            return Err(FileError::Length { found: len, expected: least });
        }
        let mut header = [0; HEADER_LEN];
        input.get(&mut header)?;
        let counts = self.counts(&header)?;
        let Counts { positions, checkpoints: count, logits, note } = counts;
        let embeddings = self.model.embeddings();
        let Session { model, engine, tokens, checkpoints, after, after_position, .. } = self;
        let states = stored(engine).map_err(|_| io::Error::from(io::ErrorKind::Unsupported))?;
        let states = &mut states.states;
        let layout = Layout::new(model.program(), states.context);
        let expected = layout.bytes(counts);
        if len != expected {
            return Err(FileError::Length { found: len, expected });
        }

        tokens.resize(positions, 0);
        input.get(bytemuck::cast_slice_mut(tokens))?;
        for id in tokens.iter() {
            within("a token", *id, 0, embeddings - 1)?;
        }
        let mut used = vec![0u32; count];
        input.get(bytemuck::cast_slice_mut(&mut used))?;
        let mut least = 1;
        for position in &used {
            least = 1 + within("the position of a checkpoint", *position, least, positions)?;
        }
        let mut text = vec![0; note];
        input.get(&mut text)?;
        layout.visit(&mut states.contents, positions, |bytes| input.get(bytes))?;
        for position in used {
            let slot = checkpoints.take(position as usize);
            let most = states.context;
            let slot = slot.ok_or(FileError::Range { what: "checkpoints", found: count, least: 0, most })?;
            input.get(bytemuck::cast_slice_mut(states.kept(slot)))?;
        }
        if logits > 0 {
            input.get(bytemuck::cast_slice_mut(after))?;
        }
        let hash = input.hash.finalize();
        let mut found = [0; HASH_LEN];
        input.get(&mut found)?;
        if hash != found {
            return Err(FileError::Hash);
        }
        states.past = positions;
        *after_position = logits;
        Ok(text)
    }

    /// Checks a header, and gives what it says.
    fn counts(&self, header: &[u8; HEADER_LEN]) -> Result<Counts, FileError> {
        let (mut magic, mut bundle) = ([0; 8], [0; 32]);
        magic.copy_from_slice(&header[..8]);
        bundle.copy_from_slice(&header[16..48]);
        if magic != MAGIC {
            return Err(FileError::Magic { found: magic });
        }
        match (number(header, 8), number(header, 12)) {
            (VERSION, 0) => {}
            (VERSION, found) => return Err(FileError::Backend { found }),
            (found, _) => return Err(FileError::Version { found }),
        }
        if bundle != self.bundle() {
            let found = blake3::Hash::from_bytes(bundle).to_hex().to_string();
            return Err(FileError::Bundle { found, expected: self.model.id().to_owned() });
        }
        let positions = within("the number of positions", number(header, 48), 0, self.context())?;
        Ok(Counts {
            positions,
            checkpoints: within("the number of checkpoints", number(header, 52), 0, positions)?,
            logits: within("the position of the logits", number(header, 56), 0, positions)?,
            note: within("the length of the note", number(header, 60), 0, MAX_NOTE)?,
        })
    }

    /// Keeps the session in a file, with a note. A file that is there is replaced at once when the new one is on the disk;
    /// until then, and where this fails, it stays as it is.
    ///
    /// # Errors
    /// When the file cannot be written, or the session is not on the CPU.
    pub fn save(&mut self, path: impl AsRef<Path>, note: &[u8]) -> Result<()> {
        let path = path.as_ref();
        let fault = |source| Error::Write { path: path.to_path_buf(), source };
        stored(&mut self.engine)?;
        let said = |error| match error {
            ReplaceError::Io { source, .. } => fault(source),
            error @ ReplaceError::Destination { .. } => {
                fault(io::Error::new(io::ErrorKind::InvalidInput, error))
            }
        };
        let mut file = BufWriter::new(Replacement::create(path, PARTIAL).map_err(said)?);
        match self.write_to(&mut file, note) {
            Err(Error::System { source, .. }) => return Err(fault(source)),
            other => other?,
        }
        let file = file.into_inner().map_err(|error| fault(error.into_error()))?;
        file.publish().map(drop).map_err(said)
    }

    /// Takes over the session in a file, and gives its note: see [`Session::read_from`].
    ///
    /// # Errors
    /// As [`Session::read_from`], and when the file cannot be read, or the session is not on the CPU.
    pub fn restore(&mut self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let fault = |source| Error::Read { path: path.to_path_buf(), source };
        stored(&mut self.engine)?;
        // Opening something else than a file may wait for ever.
        let about = std::fs::metadata(path).map_err(fault)?;
        if !about.is_file() {
            return Err(fault(io::Error::new(io::ErrorKind::InvalidInput, "found no regular file")));
        }
        let file = File::open(path).map_err(fault)?;
        let len = file.metadata().map_err(fault)?.len();
        self.read_from(&mut BufReader::new(file), len).map_err(|source| match source {
            FileError::Io(source) => fault(source),
            source => Error::Session { path: path.to_path_buf(), source },
        })
    }
}
