//! What the answers of stores mean.

use super::*;

const PLAIN: Access = Access::Write { if_absent: false, checksum: true };
const CONDITIONAL: Access = Access::Write { if_absent: true, checksum: true };

fn judged(code: &str, status: u16, sentence: &str, access: Access) -> Fault {
    let region = (status == 301).then_some("eu-central-1");
    let answer = Answer { status, code, sentence, region };
    let (kind, advice) = judge(answer, "pictures", access);
    Fault::new(kind, format!("{}; {advice}", answer.in_words()))
}

#[test]
fn every_known_code_has_its_kind_and_what_to_change() {
    use FaultKind::{NotFound, Refused, Throttled, Timeout, TooLarge, Unavailable};
    let header = "A header you provided implies functionality that is not implemented.";
    for (code, status, sentence, access, kind, advice) in [
        ("NoSuchBucket", 404, "The specified bucket does not exist", PLAIN, NotFound, "correct store.url"),
        ("InvalidBucketName", 400, "The specified bucket is not valid.", PLAIN, Refused, "store.url"),
        ("AccessDenied", 403, "Access Denied", PLAIN, Refused, "allow s3:PutObject"),
        ("AccessDenied", 403, "Access Denied", PLAIN, Refused, "store.encryption"),
        ("AccessDenied", 403, "Access Denied", Access::Read, Refused, "allow s3:GetObject and s3:ListBucket"),
        ("AccessDenied", 403, "Access Denied", Access::List, Refused, "allow s3:ListBucket"),
        ("AccessDenied", 403, "Access Denied", Access::Delete, Refused, "allow s3:DeleteObject"),
        ("InvalidRequest", 400, "The bucket demands server-side encryption.", PLAIN, Refused, "set store.encryption"),
        ("KMS.NotFoundException", 400, "Invalid keyId", PLAIN, Refused, "store.encryption_key"),
        ("NotImplemented", 501, header, PLAIN, Refused, "set store.upload_checksum = \"none\""),
        ("NotImplemented", 501, header, PLAIN, Refused, "store.checksum_calculation = \"when_required\""),
        ("NotImplemented", 501, header, CONDITIONAL, Refused, "set store.conditional_writes = false"),
        ("InvalidArgument", 400, "Unsupported header 'x-amz-checksum-sha256'", PLAIN, Refused, "store.upload_checksum"),
        ("MethodNotAllowed", 405, "not allowed", Access::Read, Refused, "store.path_style"),
        ("InvalidAccessKeyId", 403, "unknown key", PLAIN, Refused, "store.access_key_id"),
        ("SignatureDoesNotMatch", 403, "check your key", PLAIN, Refused, "store.secret_access_key"),
        ("InvalidToken", 400, "malformed", PLAIN, Refused, "store.session_token"),
        ("ExpiredToken", 400, "expired", PLAIN, Unavailable, "the temporary keys have run out"),
        ("RequestTimeTooSkewed", 403, "too large a difference", PLAIN, Unavailable, "set this machine's clock"),
        ("PermanentRedirect", 301, "another endpoint", PLAIN, Refused, "set store.region = \"eu-central-1\""),
        ("AuthorizationHeaderMalformed", 400, "expecting 'eu-west-1'", PLAIN, Refused, "correct store.region"),
        ("EntityTooLarge", 400, "too large", PLAIN, TooLarge, "raise the limit"),
        ("QuotaExceeded", 403, "the quota is used up", PLAIN, Unavailable, "make room"),
        ("XMinioStorageFull", 507, "the disk is full", PLAIN, Unavailable, "make room"),
        ("SlowDown", 503, "Please reduce your request rate.", PLAIN, Throttled, ""),
        ("", 429, "", PLAIN, Throttled, ""),
        ("RequestTimeout", 400, "idle", PLAIN, Timeout, ""),
        ("OperationAborted", 409, "a conflict", PLAIN, Unavailable, ""),
        ("InternalError", 500, "We encountered an internal error.", PLAIN, Unavailable, ""),
        ("SomethingElse", 418, "a teapot", PLAIN, Refused, "check the settings of the store"),
    ] {
        let fault = judged(code, status, sentence, access);
        assert_eq!(fault.kind(), kind, "{code}: {fault}");
        let text = fault.to_string();
        assert!(text.contains(sentence.trim_end_matches('.')), "the store's own words: {text}");
        assert!(text.contains(advice), "{advice} is missing in: {text}");
    }
}

#[test]
fn a_sentence_is_bounded_and_on_one_line() {
    fn words(sentence: &str) -> String {
        Answer { status: 403, code: "", sentence, region: None }.in_words()
    }
    assert!(words(" Access\n\tDenied\u{7} ").contains("Access Denied\\u{7}"), "{}", words(" Access\n\tDenied\u{7} "));
    for long in ["wörd ".repeat(1_000_000), "x".repeat(1_000_000)] {
        assert!(words(&long).chars().count() < 2 * text::MAX_LINE_CHARS);
    }
    assert_eq!(words(""), "no reason given (403)");
}
