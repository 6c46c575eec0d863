//! What is mounted on in a step is there, whatever the image has, and in no layer.

use crate::harness::{Exported, Store, context};

/// An image that has nothing but programs, and steps upon it.
fn build(store: &Store, steps: &str) -> Exported {
    let dockerfile = format!("FROM busybox AS tools\nFROM scratch\nCOPY --from=tools /bin /bin\n{steps}");
    store.build_exported(&context(&dockerfile, &[]), &[])
}

/// A store for each way of making trees that is here.
fn stores() -> impl Iterator<Item = Store> {
    let by = |way: &str| Some(Store::with_base()?.env("STAVE_SNAPSHOTTER", way));
    Store::with_base().into_iter().chain(by("copy"))
}

#[test]
fn they_are_there_and_in_no_layer() {
    for store in stores() {
        let image = build(
            &store,
            "RUN ls -d /proc /dev /sys /etc/hosts /etc/resolv.conf >/seen && stat -c '%a %u' /etc /etc/hosts >>/seen\n",
        );
        assert_eq!(image.last_layer(), ["seen"]);
        let seen = image.text("seen");
        assert_eq!(seen, "/dev\n/etc/hosts\n/etc/resolv.conf\n/proc\n/sys\n755 0\n644 0\n");
    }
}

#[test]
fn what_a_step_puts_beside_them_is_in_the_layer() {
    for store in stores() {
        let image = build(&store, "RUN echo x >/etc/x && mkdir -p /etc/conf.d\n");
        assert_eq!(image.last_layer(), ["etc", "etc/conf.d", "etc/x"]);
        let image = build(&store, "RUN mkdir -p /etc/conf.d\nRUN chmod 700 /etc\n");
        assert_eq!(image.last_layer(), ["etc"]);
        assert_eq!(image.files()["etc"].mode & 0o777, 0o700);
    }
}

#[test]
fn what_a_step_did_to_them_alone_is_nothing() {
    for store in stores() {
        for step in ["touch /etc/x && rm /etc/x", "chmod 700 /etc", "touch -t 200001010000 /etc"] {
            let image = build(&store, &format!("RUN {step}\n"));
            assert_eq!(image.last_layer(), [""; 0], "{step}");
        }
    }
}

#[test]
fn an_image_that_has_them_keeps_its_own() {
    for store in stores() {
        let image = build(
            &store,
            "COPY --from=tools --chmod=751 /etc/passwd /etc/hosts\nRUN mkdir -m 711 /srv && stat -c %a /etc >/srv/mode\n\
             RUN rmdir /dev 2>/dev/null; true\n",
        );
        assert_eq!(image.text("srv/mode"), "751\n");
        assert_eq!(image.last_layer(), [""; 0]);
        assert!(image.text("etc/hosts").starts_with("root:"), "{}", image.text("etc/hosts"));
    }
}

#[test]
fn files_that_the_image_lacks_are_none_after_a_step() {
    for store in stores() {
        // The second step sees what the first left.
        let image = build(&store, "RUN true\nCOPY --from=tools /etc /copied\nRUN ls -A / >/seen\n");
        let seen: Vec<String> = image.text("seen").lines().map(str::to_owned).collect();
        assert_eq!(seen, ["bin", "copied", "dev", "etc", "proc", "seen", "sys"]);
        assert!(!image.files().keys().any(|path| path.starts_with("etc") || path == "dev"));
    }
}

#[test]
fn a_directory_in_place_of_a_link_is_what_the_step_made() {
    let dockerfile = "FROM busybox AS tools\nRUN mkdir -p /t/usr/etc && ln -s usr/etc /t/etc\n\
                      FROM scratch\nCOPY --from=tools /bin /bin\nCOPY --from=tools /t/ /\n\
                      RUN rm /etc && mkdir /etc\n";
    for store in stores() {
        let image = store.build_exported(&context(dockerfile, &[]), &[]);
        assert_eq!(image.files()["etc"].kind, crate::harness::Kind::Folder);
    }
}
