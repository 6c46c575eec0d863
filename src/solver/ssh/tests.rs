//! The proxy against OpenSSH's own tools where they are installed, and against bytes where not.

use super::*;
use std::process::Command;

/// A key of `ssh-keygen`; nothing where there is none.
fn key(folder: &Path, flags: &[&str]) -> Option<PathBuf> {
    let path = folder.join(format!("key{}", flags.join("")));
    let made = Command::new("ssh-keygen")
        .args(["-q", "-N", "", "-C", "a comment", "-f"])
        .arg(&path)
        .args(flags)
        .output()
        .ok()?;
    assert!(made.status.success(), "{made:?}");
    Some(path)
}

fn forward(agent: &Agent) -> (Forward, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let user = rustix::process::geteuid().as_raw();
    let group = rustix::process::getegid().as_raw();
    let (forward, _) =
        Forward::start(agent, folder, Attributes { mode: 0o600, uid: user, gid: group }).unwrap();
    (forward, socket)
}

fn ask(stream: &mut UnixStream, request: &[u8]) -> Option<Vec<u8>> {
    write_frame(stream, request).ok()?;
    read_frame(stream).ok().flatten()
}

#[test]
fn keys_of_every_form_sign() {
    let folder = tempfile::tempdir().unwrap();
    let forms: [&[&str]; 9] = [
        &["-t", "ed25519"],
        &["-t", "ecdsa", "-b", "256"],
        &["-t", "ecdsa", "-b", "384"],
        &["-t", "rsa", "-b", "2048"],
        &["-t", "rsa", "-b", "3072"],
        &["-t", "rsa", "-b", "2048", "-m", "PEM"],
        &["-t", "rsa", "-b", "2048", "-m", "PKCS8"],
        &["-t", "ecdsa", "-b", "256", "-m", "PEM"],
        &["-t", "ecdsa", "-b", "384", "-m", "PKCS8"],
    ];
    for flags in forms {
        let Some(path) = key(folder.path(), flags) else { return };
        let agent = Agent::open(std::slice::from_ref(&path)).unwrap();
        let (_forward, socket) = forward(&agent);
        let run = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).env("SSH_AUTH_SOCK", &socket).output().unwrap();
            assert!(output.status.success(), "{flags:?} {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let public = std::fs::read_to_string(path.with_extension("pub")).unwrap();
        let listed = run("ssh-add", &["-L"]);
        let body = |text: &str| text.split(' ').nth(1).unwrap().to_owned();
        assert_eq!(body(listed.trim()), body(public.trim()), "{flags:?}");
        // The private half is out of the tool's reach, so it signs by the agent.
        let message = folder.path().join("message");
        std::fs::write(&message, "a message").unwrap();
        let public = path.with_extension("pub");
        std::fs::remove_file(&path).unwrap();
        let named = ["-f", public.to_str().unwrap(), "-n", "test", message.to_str().unwrap()];
        run("ssh-keygen", &[&["-q", "-Y", "sign"][..], &named].concat());
        let signature = message.with_extension("sig");
        let mut check = Command::new("ssh-keygen");
        check.args(["-Y", "check-novalidate", "-n", "test", "-s"]).arg(&signature);
        let checked = check.stdin(std::fs::File::open(&message).unwrap()).output().unwrap();
        assert!(checked.status.success(), "{flags:?} {checked:?}");
        std::fs::remove_file(signature).unwrap();
    }
}

#[test]
fn files_that_hold_no_usable_key() {
    let mut keys = Keyring::default();
    for (text, error) in [
        ("", KeyError::NoKey),
        ("ssh-ed25519 AAAA", KeyError::NoKey),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", KeyError::NoKey),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END", KeyError::Damaged),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\n!\n-----END OPENSSH PRIVATE KEY-----\n", KeyError::Damaged),
        ("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n", KeyError::Damaged),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
            KeyError::Encrypted,
        ),
        (
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            KeyError::Encrypted,
        ),
        (
            "-----BEGIN DSA PRIVATE KEY-----\nAAAA\n-----END DSA PRIVATE KEY-----\n",
            KeyError::Unsupported("DSA PRIVATE KEY".into()),
        ),
    ] {
        assert_eq!(keys.add(text.as_bytes()), Err(error), "{text}");
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = key(folder.path(), &["-t", "ecdsa", "-b", "521"]) else { return };
    let error = Agent::open(&[path]).unwrap_err().to_string();
    assert!(error.contains("`ecdsa-sha2-nistp521` are not known here"), "{error}");
    let locked = folder.path().join("locked");
    let made =
        Command::new("ssh-keygen").args(["-q", "-N", "words", "-t", "ed25519", "-f"]).arg(&locked).output();
    assert!(made.unwrap().status.success());
    let error = Agent::open(&[locked]).unwrap_err().to_string();
    assert!(error.contains("it has a passphrase"), "{error}");
}

/// Every prefix of a key, and every key with one byte changed, is an error or a key, never a panic.
#[test]
fn damaged_keys() {
    let folder = tempfile::tempdir().unwrap();
    for flags in [["-t", "ed25519"], ["-t", "ecdsa"]] {
        let Some(path) = key(folder.path(), &flags) else { return };
        let text = std::fs::read(path).unwrap();
        for length in 0..text.len() {
            let _ = Keyring::default().add(&text[..length]);
            let mut changed = text.clone();
            changed[length] = if changed[length] == b'A' { b'B' } else { b'A' };
            let _ = Keyring::default().add(&changed);
        }
    }
}

#[test]
fn all_but_two_requests_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = folder.path().join("agent");
    let listener = UnixListener::bind(&upstream).unwrap();
    let seen = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut seen = Vec::new();
        while let Some(request) = read_frame(&mut stream).unwrap() {
            write_frame(&mut stream, &[IDENTITIES_ANSWER, 0, 0, 0, 0]).unwrap();
            seen.push(request);
        }
        seen
    });
    let agent = Agent::open(&[upstream]).unwrap();
    let (_forward, socket) = forward(&agent);
    let mut client = UnixStream::connect(socket).unwrap();
    for request in 0..=u8::MAX {
        let allowed = [REQUEST_IDENTITIES, SIGN_REQUEST].contains(&request);
        let answer = ask(&mut client, &[request]).unwrap();
        assert_eq!(answer[0] != FAILURE, allowed, "{request}");
    }
    // A second thing in one message is not passed on either.
    assert_eq!(ask(&mut client, &[REQUEST_IDENTITIES, 19]).unwrap(), [FAILURE]);
    drop(client);
    assert_eq!(seen.join().unwrap(), [vec![REQUEST_IDENTITIES], vec![SIGN_REQUEST]]);
}

#[test]
fn who_breaks_the_protocol_is_hung_up_on() {
    let (forward, socket) = forward(&Agent::Keys(Arc::default()));
    let mut client = UnixStream::connect(&socket).unwrap();
    assert_eq!(ask(&mut client, &[REQUEST_IDENTITIES]).unwrap(), [IDENTITIES_ANSWER, 0, 0, 0, 0]);
    client.write_all(&u32::MAX.to_be_bytes()).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    let idle: Vec<_> = (0..CONNECTIONS).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let mut clients = idle;
    for client in &mut clients {
        assert!(ask(client, &[REQUEST_IDENTITIES]).is_some());
    }
    let mut one_too_many = UnixStream::connect(&socket).unwrap();
    assert!(ask(&mut one_too_many, &[REQUEST_IDENTITIES]).is_none());
    drop((clients, forward));
    assert!(UnixStream::connect(&socket).is_err());
}

#[test]
fn an_agent_that_is_gone_is_a_refusal() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = folder.path().join("agent");
    let listener = UnixListener::bind(&upstream).unwrap();
    let agent = Agent::open(std::slice::from_ref(&upstream)).unwrap();
    drop(listener);
    std::fs::remove_file(&upstream).unwrap();
    let (_forward, socket) = forward(&agent);
    let mut client = UnixStream::connect(socket).unwrap();
    assert_eq!(ask(&mut client, &[REQUEST_IDENTITIES]).unwrap(), [FAILURE]);
    assert!(Agent::open(&[upstream]).is_err());
}
