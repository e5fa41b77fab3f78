use super::*;

#[test]
fn fields_stand_where_the_standard_has_them() {
    let mut h = Header::new(opcode::SCSI_COMMAND | 0x40, 0xc1);
    h.set_data_len(0x01_0203);
    h.set_lun(0x0001_0000_0000_0000);
    h.set_word(16, 0xdead_beef);
    assert_eq!((h.opcode(), h.immediate(), h.is_final(), h.data_len()), (1, true, true, 0x01_0203));
    assert_eq!((h.lun(), h.itt(), h.ahs_len()), (1 << 48, 0xdead_beef, 0));
    assert_eq!(h.0[5..8], [1, 2, 3]);
}

#[test]
fn additional_headers_are_read_or_refused() {
    let bidirectional = [0, 5, 2, 0, 0, 0, 0x10, 0];
    assert_eq!(decode_additional(&bidirectional), Some(Additional { cdb: vec![], read_len: Some(0x1000) }));
    let both = [&[0, 3, 1, 0, 7, 8, 0, 0][..], &bidirectional].concat();
    assert_eq!(decode_additional(&both), Some(Additional { cdb: vec![7, 8], read_len: Some(0x1000) }));
    assert_eq!(decode_additional(&[]), Some(Additional::default()));
    for wrong in
        [&[0, 0, 1, 0][..], &[0, 9, 1, 0, 1, 2, 3, 4], &[0, 1, 9, 0], &[1, 2], &[0, 4, 2, 0, 1, 2, 3, 0]]
    {
        assert_eq!(decode_additional(wrong), None, "{wrong:?}");
    }
}
