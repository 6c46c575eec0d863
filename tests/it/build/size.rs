//! Large things: many layers, and a file that is larger than the memory a build may take.

use std::io::{Seek, SeekFrom, Write};
use std::process::Stdio;

use crate::harness::processes::Watch;
use crate::harness::{Store, context, finish};

#[test]
fn three_hundred_layers() {
    let Some(store) = Store::with_base() else { return };
    let mut text = "FROM busybox\n".to_owned();
    for layer in 0..299 {
        text.push_str(&format!("COPY f{} /layer/{layer}\n", layer % 2));
    }
    text.push_str("RUN ls /layer | wc -l >/count\n");
    let context = context(&text, &[("f0", "zero"), ("f1", "one")]);
    let image = store.build_exported(&context, &["--load", "-t", "many"]);
    assert_eq!((image.layers.len(), image.text("count")), (301, "299\n".to_owned()));
    assert_eq!((image.text("layer/0"), image.text("layer/297")), ("zero".into(), "one".into()));
    let other = Store::empty();
    let archive = store.path("many.tar");
    store.stave(["save", "-o", &archive, "many"]).ok();
    other.stave(["load", "-i", &archive]).ok();
    assert_eq!(other.inspect("many")["Id"], store.inspect("many")["Id"]);
    let again = crate::harness::context("FROM many\nRUN test $(ls /layer | wc -l) = 299\n", &[]);
    other.build(&again, &[]).ok();
}

#[test]
fn a_gibibyte_in_bounded_memory() {
    let Some(store) = Store::with_base() else { return };
    let context = context("FROM scratch\nCOPY large /large\n", &[]);
    let mut file = std::fs::File::create(context.file("large")).unwrap();
    // Half of it is a hole, half of it does not compress.
    let mut noise = vec![0_u8; 1 << 20];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for number in 0..256_u64 {
        for bytes in noise.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.copy_from_slice(&state.to_le_bytes());
        }
        file.seek(SeekFrom::Start(number * (4 << 20))).unwrap();
        file.write_all(&noise).unwrap();
    }
    file.set_len(1 << 30).unwrap();
    drop(file);
    for output in ["type=image", "type=oci,dest=/dev/null"] {
        let mut command = store.build_command(&context, &["-o", output]);
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let watch = Watch::start(child.id());
        finish(child).ok();
        let peak = watch.peak() >> 20;
        assert!((1..150).contains(&peak), "{output}: {peak} MiB were resident");
    }
}
