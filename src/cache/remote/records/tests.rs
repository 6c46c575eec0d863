use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

fn action() -> impl Strategy<Value = Action> {
    let inputs = btree_map(".{0,12}", "[0-9a-f]{0,64}", 0..4);
    (".{0,40}", inputs, digest(), digest(), any::<i64>()).prop_map(
        |(step, inputs, layer, diff_id, created)| Action {
            step,
            inputs,
            record: Record { layer: LayerIdentity(layer), diff_id: DiffId(diff_id), created },
        },
    )
}

fn blob() -> impl Strategy<Value = Descriptor> {
    (0..LAYER_TYPES.len(), digest(), any::<u64>())
        .prop_map(|(kind, digest, size)| Descriptor::new(MediaType::from(LAYER_TYPES[kind]), digest, size))
}

fn records() -> impl Strategy<Value = Records> {
    let actions = btree_map(digest().prop_map(ActionKey), action(), 0..6);
    let contents =
        btree_map((digest().prop_map(TreeIdentity), ".{0,30}"), digest().prop_map(ContentDigest), 0..6);
    let layers = btree_map(digest().prop_map(DiffId), vec(blob(), 0..3), 0..6);
    (actions, contents, layers).prop_map(|(actions, contents, layers)| Records { actions, contents, layers })
}

/// Many of them, so that they are stored compressed.
fn many() -> Records {
    let mut records = Records::default();
    for number in 0..500_u32 {
        let digest = Digest::of(&number.to_le_bytes());
        let record = Record { layer: LayerIdentity(digest), diff_id: DiffId(digest), created: 1 };
        let action = Action { step: format!("RUN {number}"), inputs: Inputs::new(), record };
        records.actions.insert(ActionKey(digest), action);
    }
    records
}

proptest! {
    #[test]
    fn what_is_written_is_read(records in records()) {
        let bytes = records.to_bytes().unwrap();
        prop_assert_eq!(&Records::parse(&bytes).unwrap(), &records);
        prop_assert_eq!(records.to_bytes().unwrap(), bytes);
    }

    /// Whatever becomes of the bytes, they are refused or mean what their canonical form means.
    #[test]
    fn damaged_documents(records in records(), at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<bool>()) {
        let mut json = records.to_json();
        let at = at.index(json.len());
        if cut { json.truncate(at) } else { json[at] = with }
        if let Ok(read) = Records::parse(&json) {
            prop_assert_eq!(Records::parse(&read.to_json()).unwrap(), read);
        }
    }

    #[test]
    fn damaged_compressed_documents(at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let mut bytes = many().to_bytes().unwrap();
        let at = at.index(bytes.len());
        bytes[at] = with;
        drop(Records::parse(&bytes));
    }
}

#[test]
fn a_long_document_is_compressed() {
    let bytes = many().to_bytes().unwrap();
    assert!(is_packed(&bytes) && bytes.len() < many().to_json().len() / 2);
    assert_eq!(Records::parse(&bytes).unwrap(), many());
}

/// It is read by machines with other versions of this program, so the bytes are as they are.
#[test]
fn the_form_of_the_document() {
    let digest = Digest::of(b"");
    let mut records = Records::default();
    let record = Record { layer: LayerIdentity(digest), diff_id: DiffId(digest), created: -5 };
    let inputs = Inputs::from([("base image".to_owned(), digest.hex())]);
    records.actions.insert(ActionKey(digest), Action { step: "RUN <x>".to_owned(), inputs, record });
    records.contents.insert((TreeIdentity(digest), "2 \"/a\"".to_owned()), ContentDigest(digest));
    records.layers.insert(DiffId(digest), vec![Descriptor::new(MediaType::from(LAYER_TYPES[1]), digest, 7)]);
    let hex = digest.hex();
    let expected = format!(
        r#"{{"version":1,"actions":[{{"key":"D","step":"RUN <x>","layer":"D","diffId":"D","created":-5,"inputs":{{"base image":"{hex}"}}}}],"contents":[{{"tree":"D","selector":"2 \"/a\"","digest":"D"}}],"layers":[{{"diffId":"D","blobs":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"D","size":7}}]}}]}}"#
    )
    .replace("\"D\"", &format!("\"{digest}\""));
    assert_eq!(String::from_utf8(records.to_json()).unwrap(), expected);
}

#[test]
fn what_nobody_would_read_is_not_written() {
    let mut records = many();
    let (key, mut action) = records.actions.pop_first().unwrap();
    action.inputs.insert("x".repeat(NAME_LIMIT + 1), String::new());
    records.actions.insert(key, action);
    let long = "ä".repeat(STEP_WRITTEN);
    records.actions.last_entry().unwrap().get_mut().step = long.clone();
    records.contents.insert((TreeIdentity(key.0), "s".repeat(SELECTOR_LIMIT + 1)), ContentDigest(key.0));
    let read = Records::parse(&records.to_bytes().unwrap()).unwrap();
    assert_eq!((read.actions.len(), read.contents.len()), (499, 0));
    let step = &read.actions.last_key_value().unwrap().1.step;
    assert!(long.starts_with(step) && step.len() == STEP_WRITTEN);
}

#[test]
fn bounds() {
    let with = |field: &str, items: &str| {
        let mut fields = [("actions", String::new()), ("contents", String::new()), ("layers", String::new())];
        fields.iter_mut().find(|(name, _)| *name == field).unwrap().1 = items.to_owned();
        let body: Vec<String> = fields.iter().map(|(name, items)| format!("\"{name}\":[{items}]")).collect();
        Records::parse(format!("{{\"version\":1,{}}}", body.join(",")).as_bytes())
    };
    let digest = Digest::of(b"").to_string();
    let content =
        |selector: &str| format!(r#"{{"tree":"{digest}","selector":"{selector}","digest":"{digest}"}}"#);
    assert!(with("contents", &content("a")).is_ok());
    let twice = [content("a"), content("a")].join(",");
    assert!(matches!(with("contents", &twice), Err(RecordsError::Order("contents"))));
    let long = content(&"a".repeat(SELECTOR_LIMIT + 1));
    assert!(matches!(with("contents", &long), Err(RecordsError::TooLong { .. })));
    let blob = format!(r#"{{"mediaType":"{}","digest":"{digest}","size":1}}"#, LAYER_TYPES[0]);
    let layer = |count: usize| {
        format!(r#"{{"diffId":"{digest}","blobs":[{}]}}"#, vec![blob.as_str(); count].join(","))
    };
    assert!(with("layers", &layer(BLOB_LIMIT)).is_ok());
    assert!(matches!(with("layers", &layer(BLOB_LIMIT + 1)), Err(RecordsError::TooMany { .. })));
    // Nested as deeply as one likes: read without a stack of that depth.
    let deep = format!("{{\"version\":1,\"actions\":{}", "[".repeat(1 << 20));
    assert!(matches!(Records::parse(deep.as_bytes()), Err(RecordsError::Json(_))));
    assert!(matches!(Records::parse(&vec![b' '; RECORDS_LIMIT as usize + 1]), Err(RecordsError::TooLarge)));
}
