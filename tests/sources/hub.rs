//! Models from the hub: downloads, the shared cache, and hubs that misbehave.

use std::time::Instant;

use super::*;

#[test]
fn fetched_model_is_in_the_standard_layout_and_found_offline() {
    let hub = HubStandIn::start();
    let commit = hub.add_model("owner/tiny", CONTENTS);
    let setup = Setup::with_hub(&hub);
    let folder = setup.resolve(&row(HUB)).unwrap();

    assert_eq!(folder, setup.model("snapshots").join(&commit));
    check_contents(&folder);
    assert_eq!(fs::read_to_string(setup.model("refs/main")).unwrap(), commit);
    let [config, pooling] = [CONTENTS[0].1, CONTENTS[1].1].map(|content| git_hash(content.as_bytes()));
    let weights = sha256(CONTENTS[2].1.as_bytes());
    for (file, target) in [
        (CONFIG, format!("../../blobs/{config}")),
        (POOLING, format!("../../../blobs/{pooling}")),
        (WEIGHTS, format!("../../blobs/{weights}")),
    ] {
        assert_eq!(fs::read_link(folder.join(file)).unwrap(), Path::new(&target));
    }
    let mut blobs = [config, pooling, weights];
    blobs.sort();
    assert_eq!(files_in(&setup.model("blobs")), blobs);
    let locks = [".locks/models--owner--tiny/candlewick.lock".to_owned()];
    let visible = |file: &String| !file.starts_with("models--owner--tiny/");
    assert_eq!(files_in(&setup.cache()).into_iter().filter(visible).collect::<Vec<_>>(), locks);
    assert!(!setup.model(".candlewick").exists());

    let requests = hub.requests().len();
    assert_eq!(setup.resolve(&row(HUB)).unwrap(), folder);
    assert_eq!(setup.resolve_offline(&row(HUB)).unwrap(), folder);
    assert_eq!(hub.requests().len(), requests);
}

#[test]
fn cached_model_is_used_without_a_write() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    let setup = Setup::with_hub(&hub);
    let folder = setup.resolve(&row(HUB)).unwrap();
    fs::remove_dir_all(setup.cache().join(".locks")).unwrap();
    let before = files_in(&setup.cache());
    assert_eq!(setup.resolve(&row(HUB)).unwrap(), folder);
    assert_eq!(files_in(&setup.cache()), before);
}

#[test]
fn optional_file_may_be_missing_and_required_may_not() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", [CONTENTS[0], CONTENTS[2]]);
    let setup = Setup::with_hub(&hub);
    let folder = setup.resolve(&row(HUB)).unwrap();
    assert_eq!(files_in(&folder), [CONFIG, WEIGHTS]);

    hub.add_model("owner/tiny", [CONTENTS[1], CONTENTS[2]]);
    let error = Setup::with_hub(&hub).failure(&row(HUB)).to_string();
    assert!(error.contains("/config.json: HTTP 404: no such file"), "{error}");
}

#[test]
fn commits_and_branches_are_kept_apart() {
    let hub = HubStandIn::start();
    let first = hub.add_model("owner/tiny", CONTENTS);
    let setup = Setup::with_hub(&hub);
    let by_commit = row(&HUB.replace(" }", &format!(", revision = \"{first}\" }}")));
    let folder = setup.resolve(&by_commit).unwrap();
    assert!(!setup.model("refs").exists());

    let second = hub.add_model("owner/tiny", [(CONFIG, "{\"b\": 2}"), CONTENTS[2]]);
    assert_ne!(first, second);
    let newer = setup.resolve(&row(HUB)).unwrap();
    assert_eq!(fs::read_to_string(newer.join(CONFIG)).unwrap(), "{\"b\": 2}");
    assert_eq!(hub.downloads(WEIGHTS), 1, "both commits share the blob");
    check_contents(&folder);
    assert_eq!(setup.resolve_offline(&by_commit).unwrap(), folder);
}

#[test]
fn token_is_sent() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    hub.require_token("hf_secret");
    let error = Setup::with_hub(&hub).failure(&row(HUB)).to_string();
    assert!(error.contains("HTTP 401") && error.contains("set HF_TOKEN"), "{error}");

    Setup::with_hub(&hub).var("HF_TOKEN", "hf_secret\n").resolve(&row(HUB)).unwrap();
    for request in hub.requests().iter().filter(|request| request.is_download) {
        let is_on_hub = request.file.as_deref() != Some(WEIGHTS);
        assert_eq!(request.authorization.is_some(), is_on_hub, "no token for the storage: {request:?}");
    }

    let setup = Setup::with_hub(&hub);
    let home = setup.folder.path().join("hf-home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("token"), "hf_secret\n").unwrap();
    setup.var("HF_HOME", home.to_str().unwrap()).resolve(&row(HUB)).unwrap();
}

#[test]
fn refusals_say_what_to_do() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    let setup = Setup::with_hub(&hub);
    let elsewhere = row(r#"{ type = "hub", repo = "owner/other" }"#);
    let other_branch = row(&HUB.replace(" }", ", revision = \"v9\" }"));
    for (row, expected) in
        [(elsewhere, "HTTP 404: no such repository"), (other_branch, "HTTP 404: no such revision")]
    {
        let error = setup.failure(&row).to_string();
        assert!(error.starts_with(&hub.endpoint()) && error.contains(expected), "{error}");
    }
    for (status, expected) in [
        (403, "accept the model's terms"),
        (404, "no such file"),
        (429, "too many requests"),
        (500, "HTTP 500"),
    ] {
        hub.break_file(WEIGHTS, Fault::Status(status));
        let error = setup.failure(&row(HUB)).to_string();
        assert!(error.contains("model.safetensors: HTTP") && error.contains(expected), "{error}");
        setup.check_nothing_installed();
    }
}

#[test]
fn broken_download_is_continued_by_the_next_run() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    hub.break_file(WEIGHTS, Fault::CutAfter(10));
    let setup = Setup::with_hub(&hub);
    let error = setup.failure(&row(HUB)).to_string();
    assert!(error.contains("model.safetensors: the connection broke after 10 of 33 bytes"), "{error}");
    setup.check_nothing_installed();

    hub.mend_file(WEIGHTS);
    check_contents(&setup.resolve(&row(HUB)).unwrap());
    let last = hub.requests().into_iter().rfind(|request| request.is_download).unwrap();
    assert_eq!((last.file.as_deref(), last.start), (Some(WEIGHTS), Some(10)));
}

#[test]
fn connection_that_gets_further_each_time_is_made_again() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    hub.break_file(WEIGHTS, Fault::CutEvery(12));
    check_contents(&Setup::with_hub(&hub).resolve(&row(HUB)).unwrap());
    assert_eq!(hub.downloads(WEIGHTS), 3);
}

#[test]
fn what_a_killed_run_left_is_verified_too() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    let weights = CONTENTS[2].1;
    // In turn: a good beginning, garbage, all of it, more than all of it, and an empty file.
    for (left, downloads) in
        [(&weights[..9], 1), ("garbage", 2), (weights, 0), (&weights.repeat(2), 1), ("", 1)]
    {
        for fault in [Fault::Delay(Duration::ZERO), Fault::IgnoreRange] {
            let setup = Setup::with_hub(&hub);
            let part = setup.model(".candlewick").join(sha256(weights.as_bytes()));
            fs::create_dir_all(part.parent().unwrap()).unwrap();
            fs::write(&part, left).unwrap();
            hub.break_file(WEIGHTS, fault);
            let before = hub.downloads(WEIGHTS);
            check_contents(&setup.resolve(&row(HUB)).unwrap());
            let after = hub.downloads(WEIGHTS) - before;
            assert!(after <= downloads, "{left:?} {fault:?}: {after} downloads");
            assert!(!setup.model(".candlewick").exists());
        }
    }
}

#[test]
fn wrong_content_is_not_installed() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    for file in [WEIGHTS, CONFIG] {
        hub.break_file(file, Fault::Garble);
        let setup = Setup::with_hub(&hub);
        let error = setup.failure(&row(HUB));
        assert!(matches!(error, Error::Checksum { .. }), "{error}");
        assert!(
            error.to_string().starts_with(&format!("{file} of owner/tiny: checksum mismatch")),
            "{error}"
        );
        setup.check_nothing_installed();
        assert!(!setup.model(".candlewick").exists());
        hub.mend_file(file);
        check_contents(&setup.resolve(&row(HUB)).unwrap());
    }
}

#[test]
fn damaged_blob_is_fetched_again() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    let setup = Setup::with_hub(&hub);
    let folder = setup.resolve(&row(HUB)).unwrap();
    fs::write(folder.join(WEIGHTS), "").unwrap();
    assert!(setup.resolve_offline(&row(HUB)).is_err());
    check_contents(&setup.resolve(&row(HUB)).unwrap());
    assert_eq!((hub.downloads(CONFIG), hub.downloads(WEIGHTS)), (1, 2));
}

#[test]
fn registry_checksum_is_compared_before_the_download() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    let setup = Setup::with_hub(&hub);
    let error = setup.failure(&pinned(&row(HUB), &"0".repeat(64)));
    assert!(matches!(error, Error::Checksum { .. }), "{error}");
    assert_eq!(hub.downloads(WEIGHTS), 0);
    setup.resolve(&pinned(&row(HUB), &sha256(CONTENTS[2].1.as_bytes()))).unwrap();
}

#[test]
fn silent_hub_is_given_up() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    hub.break_file(WEIGHTS, Fault::Delay(Duration::from_secs(4)));
    let setup = Setup::with_hub(&hub).var("HF_HUB_ETAG_TIMEOUT", "1");
    let begun = Instant::now();
    let error = setup.failure(&row(HUB)).to_string();
    assert!(error.contains("model.safetensors: no answer in time"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[test]
fn stalled_download_is_given_up() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    hub.break_file(WEIGHTS, Fault::StallAfter(0));
    let setup = Setup::with_hub(&hub).var("HF_HUB_DOWNLOAD_TIMEOUT", "1");
    let error = setup.failure(&row(HUB)).to_string();
    assert!(
        error.contains("model.safetensors: the connection broke after 0 of 33 bytes: timeout"),
        "{error}"
    );
}

#[test]
fn unusable_endpoints_are_named() {
    for endpoint in ["not an address", "ftp://127.0.0.1", "//127.0.0.1", "http://127.0.0.1?x=1"] {
        let error = Setup::new().var("HF_ENDPOINT", endpoint).failure(&row(HUB)).to_string();
        assert_eq!(error, format!("{endpoint}: HF_ENDPOINT must be an http or https address"));
    }
}

#[test]
fn threads_and_processes_share_one_download() {
    let hub = HubStandIn::start();
    hub.add_model("owner/tiny", CONTENTS);
    Setup::with_hub(&hub).resolve(&row(HUB)).unwrap();
    let alone = hub.requests();
    hub.break_file(WEIGHTS, Fault::Delay(Duration::from_millis(200)));
    let setup = Setup::with_hub(&hub);
    let mut processes: Vec<Child> = (0..2).map(|_| setup.child(&row(HUB), "exec").spawn().unwrap()).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| check_contents(&setup.resolve(&row(HUB)).unwrap()));
        }
    });
    for process in &mut processes {
        assert!(process.wait().unwrap().success());
    }
    let shared = hub.requests().split_off(alone.len());
    assert_eq!(shared, alone);
}
