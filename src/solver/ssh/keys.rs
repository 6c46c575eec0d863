//! Private keys from files, and an agent's two answers with them.
//!
//! The formats are OpenSSH's own and the three PEM forms of OpenSSL; the algorithms Ed25519, ECDSA
//! (P-256, P-384) and RSA with SHA-2. Everything else is for a real agent to hold: keys with a
//! passphrase, which nobody is here to ask for, keys on devices, P-521, and SHA-1 signatures.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::rsa::{self, KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512,
};

use super::wire::{Reader, Write, less_one, modulo};
use super::{IDENTITIES_ANSWER, REQUEST_IDENTITIES, SIGN_REQUEST, SIGN_RESPONSE};

/// Longer files hold no key.
pub(super) const FILE_LIMIT: u64 = 100 << 10;

const SHA2_256: u32 = 2;
const SHA2_512: u32 = 4;

/// Keys to sign with.
#[derive(Debug)]
pub struct Keyring {
    keys: Vec<Key>,
    random: SystemRandom,
}

/// Why a file is of no use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    #[error("it holds no private key")]
    NoKey,
    #[error("it has a passphrase: add it to an agent with `ssh-add`, and pass `--ssh default`")]
    Encrypted,
    #[error("keys of the type `{0}` are not known here: add it to an agent, and pass `--ssh default`")]
    Unsupported(String),
    #[error("it is damaged")]
    Damaged,
}

#[derive(Debug)]
struct Key {
    secret: Secret,
    /// As SSH writes it.
    public: Vec<u8>,
    comment: Vec<u8>,
}

#[derive(Debug)]
enum Secret {
    Ed25519(Ed25519KeyPair),
    Ecdsa(&'static Curve, EcdsaKeyPair),
    Rsa(Box<rsa::KeyPair>),
}

#[derive(Debug)]
struct Curve {
    name: &'static str,
    key_type: &'static str,
    algorithm: &'static EcdsaSigningAlgorithm,
    /// Its object identifier, encoded.
    oid: &'static [u8],
    size: usize,
}

static CURVES: [Curve; 2] = [
    Curve {
        name: "nistp256",
        key_type: "ecdsa-sha2-nistp256",
        algorithm: &ECDSA_P256_SHA256_FIXED_SIGNING,
        oid: &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
        size: 32,
    },
    Curve {
        name: "nistp384",
        key_type: "ecdsa-sha2-nistp384",
        algorithm: &ECDSA_P384_SHA384_FIXED_SIGNING,
        oid: &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22],
        size: 48,
    },
];

impl Default for Keyring {
    fn default() -> Self {
        Self { keys: Vec::new(), random: SystemRandom::new() }
    }
}

impl Keyring {
    /// Adds the key that a file holds.
    pub(super) fn add(&mut self, file: &[u8]) -> Result<(), KeyError> {
        let text = std::str::from_utf8(file).map_err(|_| KeyError::NoKey)?;
        let (label, der) = armoured(text)?;
        let secret = match label {
            "OPENSSH PRIVATE KEY" => {
                let (secret, comment) = openssh(&der, &self.random)?;
                self.keys.push(Key { public: public(&secret), secret, comment });
                return Ok(());
            }
            "RSA PRIVATE KEY" => rsa_of(rsa::KeyPair::from_der(&der).ok())?,
            "EC PRIVATE KEY" => CURVES
                .iter()
                .find_map(|curve| ecdsa_pkcs8(curve, &wrapped(curve, &der), &self.random))
                .ok_or_else(|| KeyError::Unsupported(label.to_owned()))?,
            "PRIVATE KEY" => pkcs8(&der, &self.random)?,
            "ENCRYPTED PRIVATE KEY" => return Err(KeyError::Encrypted),
            label if label.ends_with("PRIVATE KEY") => return Err(KeyError::Unsupported(label.to_owned())),
            _ => return Err(KeyError::NoKey),
        };
        self.keys.push(Key { public: public(&secret), secret, comment: Vec::new() });
        Ok(())
    }

    /// The answer to a request; none if it is refused.
    pub(super) fn answer(&self, request: &[u8]) -> Option<Vec<u8>> {
        let mut request = Reader(request);
        match request.bytes(1)?[0] {
            REQUEST_IDENTITIES => {
                let count = u32::try_from(self.keys.len()).ok()?;
                let mut answer = vec![IDENTITIES_ANSWER];
                answer.extend_from_slice(&count.to_be_bytes());
                for key in &self.keys {
                    answer.put_string(&key.public);
                    answer.put_string(&key.comment);
                }
                Some(answer)
            }
            SIGN_REQUEST => {
                let (public, data) = (request.string()?, request.string()?);
                let flags = request.number()?;
                let key = self.keys.iter().find(|key| key.public == public)?;
                let (algorithm, bytes) = self.sign(key, data, flags)?;
                let mut signature = Vec::new();
                signature.put_string(algorithm.as_bytes());
                signature.put_string(&bytes);
                let mut answer = vec![SIGN_RESPONSE];
                answer.put_string(&signature);
                Some(answer)
            }
            _ => None,
        }
    }

    fn sign(&self, key: &Key, data: &[u8], flags: u32) -> Option<(&'static str, Vec<u8>)> {
        match &key.secret {
            Secret::Ed25519(pair) => Some(("ssh-ed25519", pair.sign(data).as_ref().to_vec())),
            Secret::Ecdsa(curve, pair) => {
                let signature = pair.sign(&self.random, data).ok()?;
                let (r, s) = signature.as_ref().split_at(curve.size);
                let mut bytes = Vec::new();
                bytes.put_unsigned(r);
                bytes.put_unsigned(s);
                Some((curve.key_type, bytes))
            }
            Secret::Rsa(pair) => {
                let mut bytes = vec![0; pair.public().modulus_len()];
                // Without a flag the request is for SHA-1, which no server should take.
                let (name, encoding) = if flags & SHA2_512 != 0 {
                    ("rsa-sha2-512", &RSA_PKCS1_SHA512)
                } else if flags & SHA2_256 != 0 {
                    ("rsa-sha2-256", &RSA_PKCS1_SHA256)
                } else {
                    return None;
                };
                pair.sign(encoding, &self.random, data, &mut bytes).ok()?;
                Some((name, bytes))
            }
        }
    }
}

/// The label and the bytes of the first PEM block.
fn armoured(text: &str) -> Result<(&str, Vec<u8>), KeyError> {
    let (_, rest) = text.split_once("-----BEGIN ").ok_or(KeyError::NoKey)?;
    let (label, rest) = rest.split_once("-----").ok_or(KeyError::NoKey)?;
    let (body, _) = rest.split_once("-----END ").ok_or(KeyError::Damaged)?;
    if body.contains("Proc-Type:") && body.contains("ENCRYPTED") {
        return Err(KeyError::Encrypted);
    }
    let plain: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    Ok((label, STANDARD.decode(plain).map_err(|_| KeyError::Damaged)?))
}

/// OpenSSH's own format: the key and its comment.
fn openssh(bytes: &[u8], random: &SystemRandom) -> Result<(Secret, Vec<u8>), KeyError> {
    let bytes = bytes.strip_prefix(b"openssh-key-v1\0").ok_or(KeyError::Damaged)?;
    let mut outer = Reader(bytes);
    let cipher = outer.string().ok_or(KeyError::Damaged)?;
    if cipher != b"none" {
        return Err(KeyError::Encrypted);
    }
    let mut inner = || {
        let (_kdf, _options) = (outer.string()?, outer.string()?);
        let (_count, _public) = (outer.number()?, outer.string()?);
        let mut inner = Reader(outer.string()?);
        let same = inner.number()? == inner.number()?;
        same.then_some(inner)
    };
    let mut inner = inner().ok_or(KeyError::Damaged)?;
    let key_type = inner.string().ok_or(KeyError::Damaged)?;
    let secret = match key_type {
        b"ssh-ed25519" => openssh_ed25519(&mut inner).map(Secret::Ed25519),
        b"ssh-rsa" => openssh_rsa(&mut inner).map(|pair| Secret::Rsa(Box::new(pair))),
        other => {
            let Some(curve) = CURVES.iter().find(|curve| curve.key_type.as_bytes() == other) else {
                return Err(KeyError::Unsupported(String::from_utf8_lossy(other).into_owned()));
            };
            openssh_ecdsa(&mut inner, curve, random).map(|pair| Secret::Ecdsa(curve, pair))
        }
    };
    let secret = secret.ok_or(KeyError::Damaged)?;
    Ok((secret, inner.string().unwrap_or_default().to_vec()))
}

fn openssh_ed25519(inner: &mut Reader<'_>) -> Option<Ed25519KeyPair> {
    let (public, secret) = (inner.string()?, inner.string()?);
    Ed25519KeyPair::from_seed_and_public_key(secret.get(..32)?, public).ok()
}

fn openssh_ecdsa(
    inner: &mut Reader<'_>,
    curve: &'static Curve,
    random: &SystemRandom,
) -> Option<EcdsaKeyPair> {
    let (_curve, public, secret) = (inner.string()?, inner.string()?, inner.unsigned()?);
    let zeros = vec![0; curve.size.checked_sub(secret.len())?];
    let secret = [&zeros, secret].concat();
    EcdsaKeyPair::from_private_key_and_public_key(curve.algorithm, &secret, public, random).ok()
}

fn openssh_rsa(inner: &mut Reader<'_>) -> Option<rsa::KeyPair> {
    let (n, e, d) = (inner.unsigned()?, inner.unsigned()?, inner.unsigned()?);
    let (q_inv, p, q) = (inner.unsigned()?, inner.unsigned()?, inner.unsigned()?);
    // A modulus of one would be no prime's, and of none a division by zero.
    if p.len() < 2 || q.len() < 2 {
        return None;
    }
    let (d_p, d_q) = (modulo(d, &less_one(p)), modulo(d, &less_one(q)));
    let public_key = PublicKeyComponents { n, e };
    let components =
        KeyPairComponents { public_key, d, p, q, dP: d_p.as_slice(), dQ: d_q.as_slice(), qInv: q_inv };
    rsa::KeyPair::from_components(&components).ok()
}

fn rsa_of(pair: Option<rsa::KeyPair>) -> Result<Secret, KeyError> {
    pair.map(|pair| Secret::Rsa(Box::new(pair))).ok_or(KeyError::Damaged)
}

fn pkcs8(der: &[u8], random: &SystemRandom) -> Result<Secret, KeyError> {
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
        return Ok(Secret::Ed25519(pair));
    }
    if let Some(ecdsa) = CURVES.iter().find_map(|curve| ecdsa_pkcs8(curve, der, random)) {
        return Ok(ecdsa);
    }
    rsa_of(rsa::KeyPair::from_pkcs8(der).ok()).map_err(|_| KeyError::Unsupported("PRIVATE KEY".to_owned()))
}

fn ecdsa_pkcs8(curve: &'static Curve, der: &[u8], random: &SystemRandom) -> Option<Secret> {
    let pair = EcdsaKeyPair::from_pkcs8(curve.algorithm, der, random).ok()?;
    Some(Secret::Ecdsa(curve, pair))
}

/// The older form of an ECDSA key, in the envelope of the newer one.
fn wrapped(curve: &Curve, key: &[u8]) -> Vec<u8> {
    const EC_PUBLIC_KEY: [u8; 9] = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    let algorithm = element(0x30, &[&EC_PUBLIC_KEY, curve.oid].concat());
    element(0x30, &[&[0x02, 0x01, 0x00], algorithm.as_slice(), &element(0x04, key)].concat())
}

/// A DER element of less than 64 KiB.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len() as u16;
    let header = match length {
        0..0x80 => vec![tag, length as u8],
        0x80..0x100 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [header.as_slice(), content].concat()
}

/// The public half, as SSH writes it.
fn public(secret: &Secret) -> Vec<u8> {
    let mut out = Vec::new();
    match secret {
        Secret::Ed25519(pair) => {
            out.put_string(b"ssh-ed25519");
            out.put_string(pair.public_key().as_ref());
        }
        Secret::Ecdsa(curve, pair) => {
            out.put_string(curve.key_type.as_bytes());
            out.put_string(curve.name.as_bytes());
            out.put_string(pair.public_key().as_ref());
        }
        Secret::Rsa(pair) => {
            let PublicKeyComponents { n, e } = PublicKeyComponents::<Vec<u8>>::from(pair.public());
            out.put_string(b"ssh-rsa");
            out.put_unsigned(&e);
            out.put_unsigned(&n);
        }
    }
    out
}
