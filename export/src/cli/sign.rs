//! `lfmc keygen` and `lfmc sign`.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signer, SigningKey};
use lfm_runtime::Model;
use lfm_runtime::signature::{Hex, PublicKey, SECRET, Signature, hex, message, path_of};

use super::args::{KeygenArgs, SignArgs};
use super::{Exit, Outcome, output};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Makes a pair of keys: the secret one, which only its owner may read, and the public one beside it.
pub(super) fn keygen(args: &KeygenArgs) -> Outcome {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|e| format!("cannot get random bytes from the system: {e}"))?;
    let key = SigningKey::from_bytes(&secret);
    let mut public = args.output.as_os_str().to_owned();
    public.push(".pub");
    let public = PathBuf::from(public);
    if public.exists() {
        return Err(format!("cannot write {}: it exists, expected a new file", public.display()).into());
    }
    let failed = |path: &Path, error: std::io::Error| format!("cannot write {}: {error}", path.display());
    let mut file = new_secret_file(&args.output).map_err(|e| failed(&args.output, e))?;
    let text = format!("{SECRET}{}\n", Hex(&secret));
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| failed(&args.output, e))?;
    let text = public_key(&key)?.text();
    fs::write(&public, text).map_err(|e| failed(&public, e))?;
    output::note(&format!("secret key: {}, to be kept", args.output.display()));
    output::note(&format!("public key: {}, for lfm-run --require-signature", public.display()));
    Ok(Exit::Done)
}

/// Signs a bundle that is sound.
pub(super) fn sign(args: &SignArgs) -> Outcome {
    let key = secret_key(&args.key)?;
    let model = Model::open(&args.bundle)?;
    let bar = output::bytes_bar("hashing weights");
    let hashed = model.verify_weights(|done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    hashed?;
    let bundle: [u8; 32] = hex(model.id()).ok_or("the identity of a bundle has 64 hex digits")?;
    let signature =
        Signature { bundle, key: public_key(&key)?, bytes: key.sign(&message(&bundle)).to_bytes() };
    let path = args.output.clone().unwrap_or_else(|| path_of(&args.bundle));
    write_whole(&path, signature.text().as_bytes())
        .map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    output::note(&format!("{}: bundle {} signed by {}", path.display(), model.id(), signature.key));
    Ok(Exit::Done)
}

fn public_key(key: &SigningKey) -> Result<PublicKey> {
    Ok(PublicKey::from_bytes(key.verifying_key().as_bytes()).ok_or("the secret key has a weak public key")?)
}

/// Reads the file of a secret key.
fn secret_key(path: &Path) -> Result<SigningKey> {
    let failed = |e: std::io::Error| format!("cannot read the secret key {}: {e}", path.display());
    let mut text = String::new();
    File::open(path).map_err(failed)?.take(4096).read_to_string(&mut text).map_err(failed)?;
    let secret = text.trim().strip_prefix(SECRET).and_then(hex);
    // What was found is not shown: it may be a secret.
    let secret = secret.ok_or_else(|| {
        format!("{}: found no secret key, expected `{SECRET}` and 64 hex digits", path.display())
    })?;
    Ok(SigningKey::from_bytes(&secret))
}

/// A new file that only its owner may read.
fn new_secret_file(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Writes a file that is there with all of its content or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    let partial = PathBuf::from(partial);
    let written = File::create(&partial)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // The error that led here matters more.
        let _ = fs::remove_file(&partial);
    }
    written
}
