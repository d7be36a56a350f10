//! The quantisers against their definition: error bounds, plain rounding, hostile values, thread counts.

use lfm_graphs::weights::dequant::dequantise_row;
use proptest::prelude::*;

use super::random::Distribution;
use super::*;

/// Squared error over power of nearly normal weights. Plain rounding has 6.7e-3.
const Q4_0_NORMAL: f64 = 6.0e-3;
/// As above. Plain rounding has 3.3e-4.
const Q6_K_NORMAL: f64 = 2.65e-4;
/// As above.
const Q8_0_NORMAL: f64 = 2.7e-5;
/// As above.
const F16_NORMAL: f64 = 4.5e-8;

/// What the f32 arithmetic of the search may misjudge.
const SLACK: f64 = 1e-5;

fn quantised(format: Format, values: &[f32], k: usize) -> Vec<u8> {
    let mut out = vec![0xee; values.len() / k * format.row_bytes(k).unwrap()];
    quantise_rows(format, values, k, &mut out).unwrap();
    out
}

fn dequantised(format: Format, bytes: &[u8], k: usize) -> Vec<f32> {
    let rows = bytes.chunks(format.row_bytes(k).unwrap());
    rows.flat_map(|row| {
        let mut out = vec![f32::NAN; k];
        dequantise_row(format, row, &mut out).unwrap();
        out
    })
    .collect()
}

/// Sum of squared differences.
fn error(values: &[f32], found: &[f32]) -> f64 {
    values.iter().zip(found).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}

fn normal(count: usize) -> Vec<f32> {
    let mut values = vec![0.0; count];
    RandomWeights::new(1).fill("normal", Distribution::matrix(1024), 0, &mut values);
    values
}

/// Finite values of wildly different sizes, those that f16 scales can hold.
fn hostile(limit: f32) -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -1.0_f32..1.0,
        1 => Just(0.0),
        1 => Just(-0.0),
        1 => any::<f32>().prop_map(move |v| if v.is_finite() { v.clamp(-limit, limit) } else { f32::MIN_POSITIVE / 4.0 }),
        1 => -1e-6_f32..1e-6,
        1 => Just(limit),
    ]
}

/// The largest magnitude whose scale is surely finite.
fn limit(format: Format) -> f32 {
    match format {
        Format::F32 => f32::MAX,
        Format::F16 => 65504.0,
        Format::Q8_0 => 65504.0 * 127.0,
        Format::Q4_0 => 65504.0 * 8.0,
        Format::Q6K => 65504.0 * 4096.0,
        Format::Q4K | Format::Q5K => panic!("{format} is never made"),
    }
}

/// The formats that can be quantised to.
fn made() -> Vec<Format> {
    Format::ALL.into_iter().filter(|format| is_made(*format)).collect()
}

#[test]
fn formats_of_files_are_not_made() {
    assert_eq!(made(), [Format::F32, Format::F16, Format::Q8_0, Format::Q4_0, Format::Q6K]);
    let error = quantise_rows(Format::Q5K, &[0.0; 256], 256, &mut [0; 176]).unwrap_err();
    assert_eq!(error, QuantiseError::NoQuantiser { format: Format::Q5K });
}

#[test]
fn normal_weights_stay_within_the_error_bounds() {
    let values = normal(256 * 1024);
    let power: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
    for (format, bound) in [
        (Format::F32, 0.0),
        (Format::F16, F16_NORMAL),
        (Format::Q8_0, Q8_0_NORMAL),
        (Format::Q6K, Q6_K_NORMAL),
        (Format::Q4_0, Q4_0_NORMAL),
    ] {
        let found = error(&values, &dequantised(format, &quantised(format, &values, 1024), 1024)) / power;
        assert!(found <= bound, "{format}: {found:.3e} > {bound:.3e}");
    }
}

#[test]
fn what_a_format_can_hold_comes_back_exactly() {
    // Codes that reach the end of the range in every group, scales that are f16.
    let row: Vec<f32> =
        (0..512).map(|i| [-8.0, 7.0, 3.0, 0.0, -5.0][i % 5] * [0.5, -0.031_738_28][i / 32 % 2]).collect();
    assert_eq!(dequantised(Format::Q4_0, &quantised(Format::Q4_0, &row, 512), 512), row);
    let row: Vec<f32> = (0..64).map(|i| [127.0, -3.0, 64.0, -126.0][i % 4] * 0.031_738_28).collect();
    assert_eq!(dequantised(Format::Q8_0, &quantised(Format::Q8_0, &row, 64), 64), row);
    let subs = [-128.0, 64.0, 96.0, 127.0];
    let row: Vec<f32> =
        (0..512).map(|i| [-32.0, 31.0, 5.0, -17.0][i % 4] * subs[i / 16 % 4] / 1024.0).collect();
    assert_eq!(dequantised(Format::Q6K, &quantised(Format::Q6K, &row, 512), 512), row);
    let row = [1.0, -0.0, 65504.0, 6.0e-8, f32::MIN_POSITIVE];
    assert_eq!(dequantised(Format::F32, &quantised(Format::F32, &row, 5), 5), row);
    assert_eq!(dequantised(Format::F16, &quantised(Format::F16, &row[..3], 3), 3), row[..3]);
}

#[test]
fn requantising_changes_nothing() {
    let values = normal(64 * 1024);
    for format in [Format::F16, Format::Q8_0] {
        let once = quantised(format, &values, 1024);
        assert_eq!(quantised(format, &dequantised(format, &once, 1024), 1024), once, "{format}");
    }
}

#[test]
fn bytes_do_not_depend_on_threads_or_on_the_cut() {
    let values = normal(256 * 300);
    for format in made() {
        let whole = quantised(format, &values, 300);
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(
                pool.install(|| quantised(format, &values, 300)),
                whole,
                "{format}, {threads} threads"
            );
        }
        let rows: Vec<u8> = values.chunks(300).flat_map(|row| quantised(format, row, 300)).collect();
        assert_eq!(rows, whole, "{format}");
    }
}

/// Any change of these is a change of every bundle, and a difference between two machines is a bug.
#[test]
fn the_bytes_are_pinned() {
    let values = normal(64 * 1024);
    for (format, expected) in [
        (Format::F32, "4f926cbc31ca98df"),
        (Format::F16, "fc87d68e9fa25b9f"),
        (Format::Q8_0, "403dd298630f75df"),
        (Format::Q4_0, "35bc4f8035eab5e8"),
        (Format::Q6K, "43e048659ab1a470"),
    ] {
        let digest = blake3::hash(&quantised(format, &values, 1024)).to_hex();
        assert_eq!(&digest[..16], expected, "{format}");
    }
}

#[test]
fn a_partial_group_is_filled_with_zeros() {
    for format in [Format::Q8_0, Format::Q4_0, Format::Q6K] {
        let values = normal(40);
        let mut padded = values.clone();
        padded.resize(format.padded_k(40).unwrap(), 0.0);
        assert_eq!(quantised(format, &values, 40), quantised(format, &padded, padded.len()), "{format}");
        let back = dequantised(format, &quantised(format, &padded, padded.len()), padded.len());
        assert!(back[40..].iter().all(|value| *value == 0.0), "{format}");
    }
}

#[test]
fn faults_name_the_first_position() {
    for format in made() {
        for (value, overflow) in [(f32::NAN, false), (f32::NEG_INFINITY, false), (f32::MAX, true)] {
            let mut values = normal(40 * 600);
            values[33 * 600 + 555] = f32::INFINITY;
            values[20 * 600 + 299] = value;
            let mut out = vec![0; 40 * format.row_bytes(600).unwrap()];
            let found = quantise_rows(format, &values, 600, &mut out).unwrap_err();
            match (found.clone().below(100), overflow && format != Format::F32) {
                (QuantiseError::NotFinite { row: 120, element: 299, .. }, false) => {}
                (QuantiseError::Overflow { row: 120, element: 299, .. }, true) => {}
                (QuantiseError::NotFinite { row: 133, element: 555, .. }, false) if overflow => {}
                _ => panic!("{format}: {found}"),
            }
        }
        let largest = vec![limit(format); 256];
        assert!(
            dequantised(format, &quantised(format, &largest, 256), 256).iter().all(|v| v.is_finite()),
            "{format}"
        );
    }
    let error = quantise_rows(Format::Q4_0, &[1e30; 32], 32, &mut [0; 18]).unwrap_err().to_string();
    assert!(
        error.starts_with(
            "quantising to q4_0: row 0, element 0 is 1000000000000000000000000000000, too large"
        )
    );
}

#[test]
fn lengths_are_checked() {
    let mut out = [0; 18];
    for (values, k, bytes) in [(33, 32, 18), (32, 32, 17), (1, 0, 0), (64, 32, 18), (0, 32, 18)] {
        let found = quantise_rows(Format::Q4_0, &vec![0.0; values], k, &mut out[..bytes]);
        assert!(matches!(found, Err(QuantiseError::Length { .. })), "{values} {k} {bytes}");
    }
    assert_eq!(quantise_rows(Format::Q4_0, &[], 0, &mut []), Ok(()));
    assert_eq!(quantise_rows(Format::Q4_0, &[], 32, &mut []), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_search_never_loses_against_plain_rounding_q4_0(
        values in prop::array::uniform32(hostile(65504.0 * 8.0)),
    ) {
        let mut unit = [0; 18];
        group::each(&values, &mut unit, q4_0::encode).unwrap();
        let plain = q4_0::encode_plain(&values).unwrap();
        let (found, plain) = (dequantised(Format::Q4_0, &unit, 32), dequantised(Format::Q4_0, &plain, 32));
        prop_assert!(error(&values, &found) <= error(&values, &plain) * (1.0 + SLACK));
    }

    #[test]
    fn the_search_never_loses_against_plain_rounding_q6_k(
        values in prop::collection::vec(hostile(1000.0), 256), scale in -20..10_i32,
    ) {
        let values: Vec<f32> = values.iter().map(|v| v * 2_f32.powi(scale)).collect();
        let found = dequantised(Format::Q6K, &quantised(Format::Q6K, &values, 256), 256);
        let plain = q6_k::encode_plain(values.as_slice().try_into().unwrap()).unwrap();
        let plain = dequantised(Format::Q6K, &plain, 256);
        prop_assert!(error(&values, &found) <= error(&values, &plain) * (1.0 + SLACK));
    }

    #[test]
    fn any_finite_row_within_range_stays_finite_and_close(
        index in 0..made().len(), picks in prop::collection::vec(hostile(f32::MAX), 1..300),
    ) {
        let format = made()[index];
        let limit = limit(format);
        let values: Vec<f32> = picks.iter().map(|v| v.clamp(-limit, limit)).collect();
        let k = values.len();
        let found = dequantised(format, &quantised(format, &values, k), k);
        for (group, found) in values.chunks(format.unit_k()).zip(found.chunks(format.unit_k())) {
            // Half of a step where nothing is clamped, plus what a wrong scale may cost: no element moves by more than
            // the largest of its unit.
            let largest = group.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            for (a, b) in group.iter().zip(found) {
                prop_assert!(b.is_finite() && (a - b).abs() <= largest, "{} became {}", a, b);
            }
        }
    }

    #[test]
    fn arbitrary_bits_never_panic(bits in prop::collection::vec(any::<u32>(), 1..600), k in 1..300_usize) {
        let values: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).collect();
        let rows = values.len() / k;
        for format in made() {
            let mut out = vec![0; rows * format.row_bytes(k).unwrap()];
            let found = quantise_rows(format, &values[..rows * k], k, &mut out);
            if values[..rows * k].iter().any(|v| !v.is_finite()) {
                prop_assert!(found.is_err());
            }
            if found.is_ok() {
                prop_assert!(dequantised(format, &out, k).iter().all(|v| v.is_finite()));
            }
        }
    }
}
