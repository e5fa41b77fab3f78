use http::StatusCode;
use proptest::prelude::*;

use super::*;

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn failure(status: u16, body: &str) -> Error {
    let answer = Answer {
        status: StatusCode::from_u16(status).unwrap(),
        headers: HeaderMap::new(),
        body: body.to_owned().into(),
    };
    answer::error("s3://b", Some(&key("k")), &answer)
}

fn coded(code: &str) -> String {
    format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>why</Message></Error>")
}

#[test]
fn answers_have_the_kind_that_says_what_to_do() {
    use ErrorKind as K;
    for (status, body, kind) in [
        (404, coded("NoSuchKey"), K::NotFound),
        (404, String::new(), K::NotFound),
        (404, coded("NoSuchBucket"), K::Invalid),
        (412, coded("PreconditionFailed"), K::Exists),
        (409, coded("FileAlreadyExists"), K::Exists),
        (409, coded("BlobAlreadyExists"), K::Exists),
        (409, coded("ConditionalRequestConflict"), K::Unavailable),
        (400, coded("BadDigest"), K::Corrupt),
        (400, coded("XAmzContentChecksumMismatch"), K::Corrupt),
        (400, coded("RequestTimeout"), K::Unavailable),
        (403, coded("AccessDenied"), K::Denied),
        (403, coded("InvalidObjectState"), K::Invalid),
        (403, coded("RequestTimeTooSkewed"), K::Denied),
        (403, coded("QuotaExceeded"), K::NoSpace),
        (301, coded("PermanentRedirect"), K::Invalid),
        (503, coded("SlowDown"), K::Unavailable),
        (500, "<html>".into(), K::Unavailable),
        (507, String::new(), K::NoSpace),
        (501, coded("NotImplemented"), K::Invalid),
    ] {
        let e = failure(status, &body);
        assert_eq!(e.kind(), kind, "{status} {body}: {e}");
    }
    assert!(failure(403, &coded("AccessDenied")).to_string().contains("403 AccessDenied why"));
}

#[test]
fn errors_that_hide_in_a_success_are_found() {
    let answer =
        |body: String| Answer { status: StatusCode::OK, headers: HeaderMap::new(), body: body.into() };
    let hidden = answer::refuse_hidden_error("s3://b", &key("k"), &answer(coded("SlowDown"))).unwrap_err();
    assert_eq!(hidden.kind(), ErrorKind::Unavailable);
    let fine = answer("<CopyObjectResult><ETag>x</ETag></CopyObjectResult>".into());
    assert!(answer::refuse_hidden_error("s3://b", &key("k"), &fine).is_ok());
}

#[test]
fn lists_are_decoded() {
    let page = answer::Page::decode(
        b"<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
          <EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
          <Contents><Key>a+b%2Bc%2F%C3%A9</Key><LastModified>2024-01-01T00:00:01.000Z</LastModified>\
          <ETag>&quot;abc&quot;</ETag><Size>7</Size><StorageClass>GLACIER</StorageClass></Contents>\
          <Contents><Key>folder/</Key><Size>0</Size></Contents>\
          <NextContinuationToken>t&amp;1</NextContinuationToken></ListBucketResult>",
    )
    .unwrap();
    assert_eq!(page.next.as_deref(), Some("t&1"));
    let mut entries = page.entries.into_iter();
    let meta = entries.next().unwrap().meta(StorageClass::Archive, Access::Archived).unwrap();
    assert_eq!((meta.key.as_str(), meta.size, meta.etag.as_str()), ("a b+c/\u{e9}", 7, "abc"));
    assert_eq!(meta.modified, 1_704_067_201_000);
    assert!(entries.next().unwrap().meta(StorageClass::Standard, Access::Ready).is_none(), "no name of ours");
    assert!(
        answer::Page::decode(b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>")
            .is_err()
    );
}

#[test]
fn ranges_are_checked_against_what_was_asked() {
    let answer = |status: u16, range: Option<&str>, body: &'static [u8]| {
        let mut headers = HeaderMap::new();
        if let Some(range) = range {
            headers.insert(http::header::CONTENT_RANGE, value(range).unwrap());
        }
        Answer { status: StatusCode::from_u16(status).unwrap(), headers, body: Bytes::from_static(body) }
    };
    let cut = |a| answer::cut_range(&key("k"), &(2..6), a);
    assert_eq!(&cut(answer(206, Some("bytes 2-5/10"), b"2345")).unwrap()[..], b"2345");
    assert_eq!(&cut(answer(206, Some("bytes 2-4/5"), b"234")).unwrap()[..], b"234", "cut at the end");
    assert_eq!(&cut(answer(200, None, b"0123456789")).unwrap()[..], b"2345", "the range was passed over");
    for wrong in [
        answer(206, Some("bytes 0-3/10"), b"0123"),
        answer(206, Some("bytes 2-4/10"), b"234"),
        answer(206, None, b"2345"),
        answer(206, Some("bytes 2-9/10"), b"23456789"),
    ] {
        assert_eq!(cut(wrong).unwrap_err().kind(), ErrorKind::Unavailable);
    }
    assert_eq!(cut(answer(200, None, b"01")).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn bodies_are_cut_into_parts_without_loss() {
    let whole: Vec<u8> = (0..1000u32).flat_map(|n| n.to_le_bytes()).collect();
    for piece in [1, 7, 999, 4000] {
        let body = Payload::new(whole.chunks(piece).map(Bytes::copy_from_slice).collect());
        for size in [1000, 1001, 3999, 4000, 5000] {
            let parts = split(&body, size).unwrap();
            assert!(parts.iter().rev().skip(1).all(|p| p.len() == size));
            let joined: Vec<u8> = parts.iter().flat_map(|p| p.to_bytes()).collect();
            assert_eq!(joined, whole);
        }
    }
    let damaged = Payload::with_crc(vec![Bytes::from(whole)], 1);
    assert_eq!(split(&damaged, 1000).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn addresses_are_strictly_encoded() {
    let path = Site::new("s3", "http://127.0.0.1:8333", "b", true).unwrap();
    let uri = path.uri(Some(&key("a b/c+d'%\u{e9}")), &[("uploadId", "x/+=")]).unwrap().to_string();
    assert_eq!(uri, "http://127.0.0.1:8333/b/a%20b/c%2Bd%27%25%C3%A9?uploadId=x%2F%2B%3D");
    let host = Site::new("oss", "https://oss-cn-hangzhou.aliyuncs.com", "b", false).unwrap();
    assert_eq!(host.uri(None, &[]).unwrap().to_string(), "https://b.oss-cn-hangzhou.aliyuncs.com/");
    for wrong in ["ftp://x", "nonsense", "http://", "http://x?y=1"] {
        assert!(Site::new("s3", wrong, "b", true).is_err(), "{wrong}");
    }
    assert!(Site::new("s3", "http://x", "b/../c", true).is_err());
}

proptest! {
    #[test]
    fn any_answer_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..300), status in 100u16..600) {
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: bytes.clone().into(),
        };
        drop(answer::error("s3://b", None, &answer));
        drop(answer::Page::decode(&bytes));
        drop(answer::upload_id(&bytes));
        drop(answer::etag(&bytes));
        drop(answer::cut_range(&key("k"), &(3..9), answer));
    }

    #[test]
    fn any_list_like_answer_is_survived(inside in "(<Key>|</Key>|<Contents>|</Contents>|<Size>|</Size>|[0-9a%+&;]{1,3}){0,30}") {
        drop(answer::Page::decode(format!("<ListBucketResult>{inside}</ListBucketResult>").as_bytes()));
    }
}
