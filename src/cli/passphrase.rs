//! The passphrase of an archive: from the settings, or from whoever sits at the terminal; never from an argument, which
//! other users of the machine can see.

use std::io::{IsTerminal as _, Read as _};

use anyhow::{Context as _, bail};
use secrecy::{ExposeSecret as _, SecretString};

use crate::config::Config;

/// More than anybody types.
const MAX_BYTES: u64 = 4096;

/// For a file of this kind: the setting, else standard input: at a terminal without echo, and twice when `new`; else its first line.
pub(super) fn passphrase(config: &Config, of: &str, new: bool) -> anyhow::Result<SecretString> {
    let passphrase = match &config.backup_passphrase {
        Some(passphrase) => passphrase.clone(),
        None if std::io::stdin().is_terminal() => {
            let ask = |prompt: &str| rpassword::prompt_password(prompt).context("the passphrase can't be read");
            let passphrase = SecretString::from(ask(&format!("Passphrase of the {of}: "))?);
            if new && ask("Once more: ")? != passphrase.expose_secret() {
                bail!("these are two passphrases");
            }
            passphrase
        }
        None => {
            let mut text = String::new();
            let mut input = std::io::stdin().take(MAX_BYTES);
            input.read_to_string(&mut text).context("the passphrase can't be read from standard input")?;
            SecretString::from(text.lines().next().unwrap_or_default().to_owned())
        }
    };
    if passphrase.expose_secret().is_empty() {
        bail!("the {of} needs a passphrase: set BACKUP_PASSPHRASE, or write it to standard input");
    }
    Ok(passphrase)
}
