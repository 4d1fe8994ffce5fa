//! What the store of blobs promises, in memory and in a folder.

use super::*;

const LIMITS: FetchLimits = FetchLimits { max_bytes: 1000, timeout: Duration::from_secs(5) };

#[tokio::test]
async fn what_is_put_can_be_fetched_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::in_folder(folder.path(), LIMITS).unwrap();
    let blob = blobs.put(b"flour".to_vec(), "text/plain", "txt").await.unwrap();

    assert_eq!(blobs.fetch(&format!("blob:{}", blob.blob)).await.unwrap(), b"flour");
    assert_eq!(std::fs::read(blobs.path_of(&blob).unwrap()).unwrap(), b"flour");
    assert_eq!(blob.bytes, 5);
}

#[test]
fn what_the_system_is_short_of_now_may_be_there_later() {
    let unreadable = |errno: Errno| BlobError::unreadable(Path::new("mill/a.txt"), &errno.into());
    let short = unreadable(Errno::MFILE);
    assert_eq!((short.kind, short.transient), ("unreadable", true));
    assert_eq!(short.message, "cannot read mill/a.txt: too many open files");
    for (errno, kind) in [(Errno::NOENT, "not_found"), (Errno::ACCESS, "denied"), (Errno::ISDIR, "unreadable")] {
        let error = unreadable(errno);
        assert_eq!((error.kind, error.transient), (kind, false));
    }
}

#[tokio::test]
async fn no_more_of_a_file_is_read_than_may_be_whatever_it_says_of_its_size() {
    let blobs = Blobs::without_store(FetchLimits { max_bytes: 10, ..LIMITS });
    assert_eq!(std::fs::metadata("/proc/self/maps").unwrap().len(), 0);
    assert_eq!(blobs.fetch("/proc/self/maps").await.unwrap_err().kind, "too_large");
}

#[tokio::test]
async fn a_store_that_is_no_folder_does_the_same() {
    let blobs = Blobs::at(&"memory://".parse().unwrap(), LIMITS, None).unwrap();
    let blob = blobs.put(b"flour".to_vec(), "text/plain", "txt").await.unwrap();
    assert_eq!(blobs.size_of(&blob.blob).await.unwrap(), Some(5));
    assert_eq!(blobs.fetch(&format!("blob:{}", blob.blob)).await.unwrap(), b"flour");
    assert_eq!(blobs.path_of(&blob).unwrap_err().kind, "storage");
    let missing = format!("sha256:{}", "0".repeat(64));
    assert_eq!(blobs.size_of(&missing).await.unwrap(), None);
    assert_eq!(blobs.fetch(&format!("blob:{missing}")).await.unwrap_err().kind, "not_found");
}

#[tokio::test]
async fn redis_keeps_blobs_too() {
    use tidemill_testing::{or_skip, unique};
    let Some(server) = or_skip(tidemill_testing::Redis::shared()) else { return };
    let url = format!("{}/0/{}", server.url().trim_end_matches('/'), unique());
    let blobs = Blobs::at(&url.parse().unwrap(), FetchLimits { max_bytes: 1 << 20, ..LIMITS }, None).unwrap();
    let bytes = vec![7; 300_000];
    let blob = blobs.put(bytes.clone(), "text/plain", "txt").await.unwrap();
    assert_eq!(blobs.size_of(&blob.blob).await.unwrap(), Some(300_000));
    assert_eq!(blobs.fetch(&format!("blob:{}", blob.blob)).await.unwrap(), bytes);
}

#[tokio::test]
async fn what_is_written_under_a_wrong_name_or_is_too_large_is_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    for url in ["memory://".to_owned(), format!("file://{}", folder.path().display())] {
        let blobs = Blobs::at(&url.parse().unwrap(), LIMITS, None).unwrap();
        let name = format!("sha256:{:x}", Sha256::digest(b"flour"));

        let mut writer = blobs.writer(&name).await.unwrap();
        writer.write(Bytes::from_static(b"grist")).await.unwrap();
        assert_eq!(writer.finish().await.unwrap_err().kind, "invalid_input");
        let mut writer = blobs.writer(&name).await.unwrap();
        assert_eq!(writer.write(vec![0; 1001].into()).await.unwrap_err().kind, "too_large");
        drop(writer);
        assert_eq!(blobs.size_of(&name).await.unwrap(), None);

        let mut writer = blobs.writer(&name).await.unwrap();
        writer.write(Bytes::from_static(b"flo")).await.unwrap();
        writer.write(Bytes::from_static(b"ur")).await.unwrap();
        assert_eq!(writer.finish().await.unwrap(), 5);
        assert_eq!(blobs.fetch(&format!("blob:{name}")).await.unwrap(), b"flour");
    }
}

#[test]
fn a_place_is_named_by_a_url_of_a_known_kind() {
    for good in ["redis://user:p%40ss@host:6380/2/folder", "rediss://host", "s3://bucket/folder?region=eu-1"] {
        assert!(Blobs::at(&good.parse().unwrap(), LIMITS, None).is_ok(), "{good}");
    }
    let error = Blobs::at(&"ftp://host:p@ss/x".parse().unwrap(), LIMITS, None).unwrap_err();
    assert!(error.message.contains("ftp: is not among file"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bytes_may_be_put_by_many_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::in_folder(folder.path(), LIMITS).unwrap();
    let bytes = vec![7; 1 << 20];
    let putting: Vec<_> = (0..32)
        .map(|_| {
            let (blobs, bytes) = (blobs.clone(), bytes.clone());
            tokio::spawn(async move { blobs.put(bytes, "text/plain", "txt").await })
        })
        .collect();
    for put in putting {
        let blob = put.await.unwrap().unwrap();
        assert_eq!(std::fs::metadata(blobs.path_of(&blob).unwrap()).unwrap().len(), 1 << 20);
    }
}

#[tokio::test]
async fn a_name_that_is_no_digest_leads_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::in_folder(folder.path(), LIMITS).unwrap();
    for name in ["blob:sha256:../../etc/passwd", "blob:/etc/passwd", "blob:sha256:AB"] {
        assert_eq!(blobs.fetch(name).await.unwrap_err().kind, "invalid_input", "{name}");
    }
}

#[tokio::test]
async fn bytes_come_within_a_url() {
    let blobs = Blobs::without_store(LIMITS);
    assert_eq!(blobs.fetch("data:text/plain;base64,ZmxvdXI=").await.unwrap(), b"flour");
    assert_eq!(blobs.fetch(&inline(b"flour")).await.unwrap(), b"flour");
    assert_eq!(blobs.fetch("data:,fine%20flour").await.unwrap(), b"fine flour");
    assert_eq!(blobs.fetch("data:;base64,Zmx!").await.unwrap_err().kind, "invalid_input");
    assert_eq!(blobs.fetch("data:no comma").await.unwrap_err().kind, "invalid_input");
    assert_eq!(blobs.fetch(&format!("data:,{}", "x".repeat(1001))).await.unwrap_err().kind, "too_large");
}

#[tokio::test]
async fn a_missing_file_is_named() {
    let error = Blobs::without_store(LIMITS).fetch("/no/such/file.jpg").await.unwrap_err();
    assert_eq!(error.kind, "not_found");
    assert_eq!(error.message, "cannot read /no/such/file.jpg: no such file or directory");
}

#[tokio::test]
async fn a_file_over_the_limit_and_a_folder_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let large = folder.path().join("large");
    std::fs::write(&large, vec![0; 1001]).unwrap();
    let blobs = Blobs::without_store(LIMITS);
    assert_eq!(blobs.fetch(large.to_str().unwrap()).await.unwrap_err().kind, "too_large");
    assert_eq!(blobs.fetch(folder.path().to_str().unwrap()).await.unwrap_err().kind, "unreadable");
}

#[tokio::test]
async fn a_file_url_names_a_file_of_this_machine_by_its_whole_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a b%20?.txt").display().to_string();
    std::fs::write(&path, "flour").unwrap();
    let blobs = Blobs::without_store(LIMITS);

    for start in ["file://", "FILE://", "file://localhost", "file://LocalHost"] {
        assert_eq!(blobs.fetch(&format!("{start}{path}")).await.unwrap(), b"flour", "{start}");
    }
    for url in ["file://out/a.png", "file://./a.png", "file://a.png", "file://localhost", "file://"] {
        let error = blobs.fetch(url).await.unwrap_err();
        let message =
            format!("{url} names no file of this machine; it should be file:///folder/file, or the path alone");
        assert_eq!((error.kind, error.message), ("invalid_input", message));
    }
    for other in ["a.png", "/a.png", "s3://bucket/a.png", "https://host/a.png"] {
        assert_eq!(file_behind(other).unwrap(), None, "{other}");
    }
}

#[test]
fn only_what_looks_like_a_url_is_one() {
    assert_eq!(scheme("https://host/a.jpg"), Some(("https", "//host/a.jpg")));
    assert_eq!(scheme("blob:sha256:00"), Some(("blob", "sha256:00")));
    assert_eq!(scheme("data:,flour"), Some(("data", ",flour")));
    assert_eq!(scheme("HTTP://host/A.jpg"), Some(("http", "//host/A.jpg")));
    assert_eq!(scheme("Data:,flour"), Some(("data", ",flour")));
    for path in ["a.jpg", "a:b.jpg", "c:/x", "notes: today.txt", "./a"] {
        assert_eq!(scheme(path), None, "{path}");
    }
}
