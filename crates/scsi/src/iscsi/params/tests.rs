use super::*;

fn ask(params: &mut Params, key: &str, value: &str) -> String {
    let mut out = Text::default();
    params.answer(&Limits::default(), key, value, &mut out);
    String::from_utf8(out.0).unwrap().trim_end_matches('\0').to_owned()
}

#[test]
fn every_negotiable_key_is_answered() {
    let mut p = Params::default();
    for (key, value, answer) in [
        ("HeaderDigest", "CRC32C,None", "HeaderDigest=CRC32C"),
        ("DataDigest", "None,CRC32C", "DataDigest=None"),
        ("MaxConnections", "8", "MaxConnections=1"),
        ("InitialR2T", "No", "InitialR2T=No"),
        ("ImmediateData", "Yes", "ImmediateData=Yes"),
        ("MaxRecvDataSegmentLength", "262144", ""),
        ("MaxBurstLength", "16776192", "MaxBurstLength=16776192"),
        ("FirstBurstLength", "262144", "FirstBurstLength=262144"),
        ("DefaultTime2Wait", "0", "DefaultTime2Wait=2"),
        ("DefaultTime2Retain", "20", "DefaultTime2Retain=0"),
        ("MaxOutstandingR2T", "4", "MaxOutstandingR2T=4"),
        ("DataPDUInOrder", "No", "DataPDUInOrder=Yes"),
        ("DataSequenceInOrder", "No", "DataSequenceInOrder=Yes"),
        ("ErrorRecoveryLevel", "2", "ErrorRecoveryLevel=0"),
        ("TaskReporting", "FastAbort,RFC3720", "TaskReporting=RFC3720"),
        ("iSCSIProtocolLevel", "2", "iSCSIProtocolLevel=1"),
        ("OFMarker", "Yes", "OFMarker=No"),
        ("IFMarkInt", "1~2", "IFMarkInt=Reject"),
        ("X-com.acme.fast", "1", "X-com.acme.fast=NotUnderstood"),
    ] {
        assert_eq!(ask(&mut p, key, value), answer);
    }
    assert_eq!(
        p,
        Params {
            discovery: false,
            header_digest: true,
            data_digest: false,
            initial_r2t: false,
            immediate_data: true,
            send_segment: 262_144,
            max_burst: 16_776_192,
            first_burst: 262_144,
            outstanding_r2t: 4,
            time2wait: 2,
            time2retain: 0,
        }
    );
}

#[test]
fn wrong_values_are_rejected_and_change_nothing() {
    let mut p = Params::default();
    for (key, value) in [
        ("HeaderDigest", "MD5"),
        ("MaxConnections", "0"),
        ("InitialR2T", "maybe"),
        ("MaxRecvDataSegmentLength", "511"),
        ("MaxBurstLength", "16777216"),
        ("FirstBurstLength", "x"),
        ("MaxOutstandingR2T", "65536"),
        ("ErrorRecoveryLevel", "3"),
        ("TaskReporting", "Often"),
    ] {
        assert_eq!(ask(&mut p, key, value), format!("{key}=Reject"));
    }
    assert_eq!(p, Params::default());
}

#[test]
fn the_first_burst_never_exceeds_the_burst() {
    let mut p = Params::default();
    ask(&mut p, "FirstBurstLength", "262144");
    ask(&mut p, "MaxBurstLength", "8192");
    assert_eq!(p.first_burst, 8192);
    assert_eq!(ask(&mut p, "FirstBurstLength", "65536"), "FirstBurstLength=8192");
}

#[test]
fn discovery_knows_no_data_transfer() {
    let mut p = Params { discovery: true, ..Params::default() };
    assert_eq!(ask(&mut p, "ImmediateData", "Yes"), "ImmediateData=Irrelevant");
    assert_eq!(ask(&mut p, "MaxBurstLength", "8192"), "MaxBurstLength=Irrelevant");
    assert_eq!(ask(&mut p, "HeaderDigest", "CRC32C"), "HeaderDigest=CRC32C");
}
