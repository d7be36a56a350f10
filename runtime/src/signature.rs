//! Ed25519 signatures of bundles: who vouches for one.
//!
//! A signature lies beside its bundle, in `FILE.lfmb.sig`, so that signing changes no byte of the bundle:
//!
//! ```text
//! lfm signature 1
//! bundle 4d1c..            the identity of the bundle: the hash of its header
//! key 9f02..               the public key
//! signature 77ab..
//! ```
//!
//! Signed are [`DOMAIN`] and the 32 bytes of the identity. The header has the hash of every section, so a signature
//! covers all of the file once all of these hashes have been compared with the bytes, those of the weights too:
//! [`require`] does that.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use ed25519_dalek::VerifyingKey;

use crate::error::{Error, Result};
use crate::model::Model;

/// What the signed message begins with, so that no signature of anything else is taken for one of a bundle.
pub const DOMAIN: &[u8] = b"lfm bundle signature 1\n";
/// Begins the text of a public key.
pub const PUBLIC: &str = "lfm public key ";
/// Begins the text of a secret key.
pub const SECRET: &str = "lfm secret key ";
/// First line of a signature.
const FIRST: &str = "lfm signature 1";
/// Largest file of a key or signature that is read, in bytes.
const MOST: u64 = 4096;

/// A public key: the bytes of a point of the curve that is no weak key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// A key by its 64 hex digits, or by the path of its file.
    ///
    /// # Errors
    /// When it is neither.
    pub fn find(argument: &str) -> Result<PublicKey> {
        if argument.len() == 64 && argument.bytes().all(|b| b.is_ascii_hexdigit()) {
            return PublicKey::parse(argument).map_err(Error::Argument);
        }
        let path = Path::new(argument);
        let text = read(path).map_err(|source| Error::Read { path: path.to_path_buf(), source })?;
        PublicKey::parse(&text).map_err(|what| Error::Argument(format!("{argument}: {what}")))
    }

    /// The key in a text: its hex digits, or those with [`PUBLIC`] before them.
    fn parse(text: &str) -> Result<PublicKey, String> {
        let expected = "expected a public key: `lfm public key ` and 64 hex digits";
        let text = text.trim();
        if text.starts_with(SECRET) {
            return Err(format!("found a secret key, {expected}"));
        }
        let bytes = hex(text.strip_prefix(PUBLIC).unwrap_or(text)).ok_or(expected)?;
        PublicKey::from_bytes(&bytes).ok_or_else(|| format!("found no point of the curve, {expected}"))
    }

    /// The key of these bytes, if they are one. Weak keys, for which anything can be signed, are none.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<PublicKey> {
        VerifyingKey::from_bytes(bytes).ok().filter(|key| !key.is_weak()).map(|_| PublicKey(*bytes))
    }

    /// Its file.
    pub fn text(&self) -> String {
        format!("{PUBLIC}{self}\n")
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

/// A signature of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Identity of the bundle.
    pub bundle: [u8; 32],
    /// Who signed.
    pub key: PublicKey,
    /// What proves it.
    pub bytes: [u8; 64],
}

/// What is wrong with the signature of a bundle.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// There is none.
    #[error("there is no signature: no file {}", .0.display())]
    Missing(PathBuf),
    /// The file could not be read.
    #[error("cannot read the signature {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The file is no signature.
    #[error("{}: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was found and expected.
        what: String,
    },
    /// It is that of another bundle, or of this one before it was changed.
    #[error("the signature is of bundle {signed}, found bundle {found}")]
    OtherBundle {
        /// The identity that was signed.
        signed: String,
        /// That of the bundle.
        found: String,
    },
    /// Somebody else signed.
    #[error("the signature is by key {found}, expected one by {expected}")]
    OtherKey {
        /// Who signed.
        found: PublicKey,
        /// Who should have.
        expected: PublicKey,
    },
    /// It was not made with the key that it names.
    #[error("the signature does not hold for bundle and key {0}: it or the bundle was altered")]
    Wrong(PublicKey),
}

/// What is signed for the bundle with this identity.
pub fn message(bundle: &[u8; 32]) -> Vec<u8> {
    [DOMAIN, bundle].concat()
}

/// Where the signature of a bundle lies.
pub fn path_of(bundle: &Path) -> PathBuf {
    let mut name = bundle.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

impl Signature {
    /// Its file.
    pub fn text(&self) -> String {
        let Signature { bundle, key, bytes } = self;
        let (bundle, bytes) = (Hex(bundle), Hex(bytes));
        format!("{FIRST}\nbundle {bundle}\nkey {key}\nsignature {bytes}\n")
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// When it is not one as [`Signature::text`] writes it.
    pub fn parse(text: &str) -> Result<Signature, String> {
        let mut lines = text.lines();
        if lines.next() != Some(FIRST) {
            return Err(format!("the first line is no `{FIRST}`"));
        }
        let mut field = |name: &str| {
            let line = lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.ok_or_else(|| format!("there is no line `{name}` where it is expected"))
        };
        let digits = |name: &str, count: usize| format!("`{name}` has not {count} hex digits");
        let bundle = hex(field("bundle")?).ok_or_else(|| digits("bundle", 64))?;
        let key = PublicKey::parse(field("key")?)?;
        let bytes = hex(field("signature")?).ok_or_else(|| digits("signature", 128))?;
        match lines.next() {
            None => Ok(Signature { bundle, key, bytes }),
            Some(_) => Err("there are lines after `signature`".into()),
        }
    }

    /// The signature beside a bundle.
    ///
    /// # Errors
    /// When there is none, or the file is no signature.
    pub fn beside(bundle: &Path) -> Result<Signature, Fault> {
        let path = path_of(bundle);
        match read(&path) {
            Ok(text) => Signature::parse(&text).map_err(|what| Fault::Malformed { path, what }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Fault::Missing(path)),
            Err(error) => Err(Fault::Read { path, error }),
        }
    }

    /// Checks that it is one of `bundle`, an identity in hex, by `key` if one is given.
    ///
    /// # Errors
    /// When it is not.
    pub fn check(&self, bundle: &str, key: Option<&PublicKey>) -> Result<(), Fault> {
        if let Some(expected) = key.filter(|key| **key != self.key) {
            return Err(Fault::OtherKey { found: self.key, expected: *expected });
        }
        let signed = Hex(&self.bundle).to_string();
        if signed != bundle {
            return Err(Fault::OtherBundle { signed, found: bundle.to_owned() });
        }
        let signature = ed25519_dalek::Signature::from_bytes(&self.bytes);
        let key = VerifyingKey::from_bytes(&self.key.0);
        key.and_then(|key| key.verify_strict(&message(&self.bundle), &signature))
            .map_err(|_| Fault::Wrong(self.key))
    }
}

/// Demands that a bundle is signed by `key`, and that all its bytes are those that were signed. `progress` gets bytes of
/// weights hashed and in all.
///
/// # Errors
/// When there is no such signature, or the weights have changed.
pub fn require(model: &Model, key: &PublicKey, progress: impl FnMut(u64, u64)) -> Result<()> {
    let untrusted = |source| Error::Untrusted { path: model.path().to_path_buf(), source };
    Signature::beside(model.path()).and_then(|s| s.check(model.id(), Some(key))).map_err(untrusted)?;
    model.verify_weights(progress)
}

/// The text of a small file.
fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MOST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST {
        return Err(std::io::Error::other(format!("the file has more than {MOST} bytes")));
    }
    Ok(text)
}

/// The bytes of so many hex digits, and nothing else.
pub fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

/// Bytes that print as hex digits.
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, self.0)
    }
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;

    const ID: [u8; 32] = [0xab; 32];

    fn signed(secret: u8) -> Signature {
        let secret = SigningKey::from_bytes(&[secret; 32]);
        let key = PublicKey::from_bytes(secret.verifying_key().as_bytes()).unwrap();
        Signature { bundle: ID, key, bytes: secret.sign(&message(&ID)).to_bytes() }
    }

    #[test]
    fn a_signature_holds_for_its_bundle_and_key_only() {
        let (one, other) = (signed(1), signed(2));
        let id = Hex(&ID).to_string();
        one.check(&id, None).unwrap();
        one.check(&id, Some(&one.key)).unwrap();
        let says = |result: Result<(), Fault>| result.unwrap_err().to_string();
        assert!(says(one.check(&id, Some(&other.key))).contains("expected one by"));
        assert!(says(one.check(&"0".repeat(64), None)).starts_with("the signature is of bundle abab"));
        for at in 0..64 {
            let mut altered = one.clone();
            altered.bytes[at] ^= 1;
            assert!(matches!(altered.check(&id, None), Err(Fault::Wrong(_))), "byte {at}");
        }
        let claimed = Signature { key: other.key, ..one.clone() };
        assert!(matches!(claimed.check(&id, None), Err(Fault::Wrong(_))));
        // The identity alone, without what says that it is one, is no message.
        let secret = SigningKey::from_bytes(&[1; 32]);
        let bare = Signature { bytes: secret.sign(&ID).to_bytes(), ..one };
        assert!(matches!(bare.check(&id, None), Err(Fault::Wrong(_))));
    }

    #[test]
    fn texts_come_back_and_others_are_refused() {
        let signature = signed(7);
        let text = signature.text();
        assert_eq!(Signature::parse(&text), Ok(signature.clone()));
        assert_eq!(PublicKey::parse(&signature.key.text()), Ok(signature.key));
        for (from, to, part) in [
            ("signature 1", "signature 2", "the first line is no"),
            ("bundle ab", "bundle a", "`bundle` has not 64 hex digits"),
            ("\nkey ", "\nkeys ", "no line `key`"),
            ("\nsignature ", "\nsignature +", "`signature` has not 128 hex digits"),
        ] {
            let error = Signature::parse(&text.replace(from, to)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert!(Signature::parse(&format!("{text}more\n")).unwrap_err().contains("lines after"));
        assert!(Signature::parse("").is_err());
        for bad in ["", "00", &format!("{SECRET}{}", "1".repeat(64)), &"é".repeat(32)] {
            assert!(PublicKey::parse(bad).unwrap_err().contains("expected a public key"), "{bad}");
        }
        // The neutral element, for which a forger finds signatures of every message.
        let mut weak = [0; 32];
        weak[0] = 1;
        assert_eq!(PublicKey::from_bytes(&weak), None);
        assert_eq!(hex::<2>("0aFf"), Some([10, 255]));
        assert_eq!(hex::<2>("0aF"), None);
        assert_eq!(hex::<1>("+1"), None);
    }
}
