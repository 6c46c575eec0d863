//! The log of what happened: written by all who change something, read from its past on and as it grows.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;

use rustix::fs::OFlags;

use super::{Store, StoreError};
use crate::event::{EARLIER, Event, Kind, LINE_LIMIT, LOG};
use crate::root;

impl Store {
    /// Tells that something happened. Nothing fails for its event, so there is no error.
    pub fn event<K: Into<String>, V: Into<String>>(
        &self,
        kind: Kind,
        action: &str,
        id: impl Into<String>,
        attributes: impl IntoIterator<Item = (K, V)>,
    ) {
        let event = Event::new(kind, action, id, attributes, self.now());
        let _ = crate::event::write(&self.root, &event);
    }

    /// A reader of the log: from its oldest event, or from now on.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn events(&self, from_the_beginning: bool) -> Result<Events<'_>, StoreError> {
        let mut events = Events { store: self, files: Vec::new() };
        events.look()?;
        if !from_the_beginning {
            for file in &mut events.files {
                file.file.seek(SeekFrom::End(0)).map_err(StoreError::io("read", LOG))?;
            }
        }
        Ok(events)
    }
}

/// Reads the log. A file that was renamed is read to its end, and looked at until the next is: somebody may have had
/// it open to write a line.
#[derive(Debug)]
pub struct Events<'a> {
    store: &'a Store,
    /// The oldest first; at most three.
    files: Vec<Tail>,
}

#[derive(Debug)]
struct Tail {
    file: File,
    inode: u64,
    /// The beginning of a line whose end is not there yet.
    begun: Vec<u8>,
    /// Whether the line is too long, and is left out.
    skips: bool,
}

impl Events<'_> {
    /// What was told since the last call, in its order.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn read(&mut self) -> Result<Vec<Event>, StoreError> {
        self.look()?;
        let mut found = Vec::new();
        for tail in &mut self.files {
            tail.read(&mut found).map_err(StoreError::io("read", LOG))?;
        }
        Ok(found)
    }

    /// Opens what is there and was not before.
    fn look(&mut self) -> Result<(), StoreError> {
        for name in [EARLIER, LOG] {
            let opened = root::open(
                &self.store.root,
                name,
                OFlags::RDONLY | OFlags::NOFOLLOW,
                rustix::fs::Mode::empty(),
            );
            let file: File = match opened {
                Ok(file) => file.into(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(StoreError::io("open", self.store.path().join(name))(error)),
            };
            let inode = file.metadata().map_err(StoreError::io("read", name))?.ino();
            // An open file keeps its number, so no other can have it.
            if !self.files.iter().any(|tail| tail.inode == inode) {
                self.files.push(Tail { file, inode, begun: Vec::new(), skips: false });
            }
        }
        let over = self.files.len().saturating_sub(3);
        self.files.drain(..over);
        Ok(())
    }
}

impl Tail {
    fn read(&mut self, found: &mut Vec<Event>) -> std::io::Result<()> {
        let mut buffer = [0; 16 << 10];
        loop {
            let length = self.file.read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            for piece in buffer[..length].split_inclusive(|byte| *byte == b'\n') {
                if self.begun.len() + piece.len() > LINE_LIMIT + 1 {
                    self.skips = true;
                    self.begun.clear();
                }
                if !self.skips {
                    self.begun.extend_from_slice(piece);
                }
                if piece.ends_with(b"\n") {
                    found.extend(Event::read(self.begun.trim_ascii_end()));
                    self.begun.clear();
                    self.skips = false;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::event::{EARLIER, Kind, LOG};
    use crate::store::tests::store;

    fn told(store: &crate::store::Store, action: &str) {
        store.event(Kind::Image, action, "an image", [("name", "a:1")]);
    }

    #[test]
    fn a_reader_follows_across_rotations() {
        let (_folder, store) = store();
        told(&store, "one");
        let mut all = store.events(true).unwrap();
        let mut new = store.events(false).unwrap();
        let actions = |reader: &mut super::Events<'_>| -> Vec<String> {
            reader.read().unwrap().into_iter().map(|event| event.action).collect()
        };
        assert_eq!(actions(&mut all), ["one"]);
        assert_eq!(actions(&mut new), [""; 0]);
        for round in 0..5 {
            told(&store, &format!("before {round}"));
            let held = std::fs::File::open(store.path()).unwrap();
            std::fs::rename(store.path().join(LOG), store.path().join(EARLIER)).unwrap();
            told(&store, &format!("after {round}"));
            drop(held);
            let expected = [format!("before {round}"), format!("after {round}")];
            assert_eq!(actions(&mut all), expected);
            assert_eq!(actions(&mut new), expected);
        }
    }

    #[test]
    fn what_is_no_event_is_left_out() {
        let (_folder, store) = store();
        told(&store, "one");
        let path = store.path().join(LOG);
        let mut text = std::fs::read(&path).unwrap();
        text.extend(b"not json\n{}\n\n[]\n\xff\xfe\n");
        text.extend(vec![b'x'; 1 << 20]);
        text.push(b'\n');
        std::fs::write(&path, text).unwrap();
        told(&store, "two");
        let read = store.events(true).unwrap().read().unwrap();
        assert_eq!(read.iter().map(|event| &*event.action).collect::<Vec<_>>(), ["one", "two"]);
    }
}
