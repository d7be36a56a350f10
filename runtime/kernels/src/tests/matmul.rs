use lfm_graphs::weights::{Format, layout, pack};

use super::super::{Cols, Input, Kernels, Matrix, Panels, PanelsMut, Portable, words_needed};
use super::{Rng, assert_bits, tiers};

const KS: [usize; 14] = [1, 2, 7, 31, 32, 33, 40, 64, 96, 100, 128, 256, 300, 2048];
const ROWS: usize = 50;
const TOKENS: usize = 20;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Data {
    Random,
    /// Every integer at an end of its range, the largest scales.
    Extreme,
}

/// A canonical matrix, `[rows, row_bytes]`.
fn canonical(rng: &mut Rng, format: Format, rows: usize, k: usize, data: Data) -> Vec<u8> {
    let half = |rng: &mut Rng| match data {
        Data::Random => half::f16::from_f32(rng.unit()).to_le_bytes(),
        Data::Extreme => {
            half::f16::from_f32(if rng.below(2) == 0 { 65504.0 } else { -65504.0 }).to_le_bytes()
        }
    };
    let byte = |rng: &mut Rng, ends: &[u8]| match data {
        Data::Random => rng.bits() as u8,
        Data::Extreme => ends[rng.below(ends.len())],
    };
    let mut out = Vec::new();
    for _ in 0..rows * format.units(k) {
        match format {
            Format::F32 if data == Data::Random => out.extend(rng.wild().to_le_bytes()),
            Format::F32 => out.extend([f32::MAX / 1e10, -1e-30][rng.below(2)].to_le_bytes()),
            Format::F16 => out.extend(half(rng)),
            Format::Q8_0 => {
                out.extend(half(rng));
                let ends = [[0x80], [0x7f]][rng.below(2)];
                out.extend((0..32).map(|_| byte(rng, &ends)));
            }
            Format::Q4_0 => {
                out.extend(half(rng));
                let ends = [[0x00], [0xff]][rng.below(2)];
                out.extend((0..16).map(|_| byte(rng, &ends)));
            }
            Format::Q4K | Format::Q5K => {
                out.extend(half(rng));
                out.extend(half(rng));
                let ends = [[0x00], [0xff]][rng.below(2)];
                out.extend((0..12).map(|_| byte(rng, &ends)));
                let codes = format.unit_bytes() - 16;
                let ends = [[0x00], [0xff]][rng.below(2)];
                out.extend((0..codes).map(|_| byte(rng, &ends)));
            }
            Format::Q6K => {
                let ends = [[0x00], [0xff]][rng.below(2)];
                out.extend((0..192).map(|_| byte(rng, &ends)));
                let ends = [[0x80], [0x7f]][rng.below(2)];
                out.extend((0..16).map(|_| byte(rng, &ends)));
                out.extend(half(rng));
            }
        }
    }
    out
}

/// A packed matrix.
fn packed(rng: &mut Rng, format: Format, rows: usize, k: usize, data: Data) -> Vec<u8> {
    packed_of(format, rows, k, &canonical(rng, format, rows, k, data))
}

/// A canonical matrix, packed.
fn packed_of(format: Format, rows: usize, k: usize, canonical: &[u8]) -> Vec<u8> {
    let mut out = vec![0; layout::packed_bytes(format, rows, k).unwrap() as usize];
    pack::pack(format, rows, k, canonical, &mut out).unwrap();
    out
}

/// Activations, `[tokens, k]`.
fn activations(rng: &mut Rng, tokens: usize, k: usize, data: Data) -> Vec<f32> {
    let mut x = Vec::new();
    for t in 0..tokens {
        let sign = rng.unit().signum();
        x.extend((0..k).map(|i| match data {
            // Some groups are zero, some tiny.
            Data::Random if (t + i / 32) % 7 == 3 => 0.0,
            Data::Random if (t + i / 32) % 11 == 4 => rng.unit() * 1e-29,
            Data::Random => rng.unit(),
            Data::Extreme => sign * 1e3,
        }));
    }
    x
}

/// A product by `tier`, quantising with it where the format says so; `[tokens, rows]`. Columns beyond stay untouched.
fn product(tier: &dyn Kernels, w: &Matrix, x: &[f32], tokens: usize) -> Vec<f32> {
    const MARK: f32 = 12345.0;
    let (rows, stride) = (w.rows(), w.rows() + 3);
    let mut words = vec![-1; words_needed(tokens, w.k())];
    let mut y = vec![MARK; tokens * stride];
    let (mut out, _) = Cols::new(&mut y, tokens, stride).split_at(rows);
    let input = if w.format().is_quantised() {
        tier.quantize(x, &mut PanelsMut::new(&mut words, tokens, w.k()));
        Input::Panels(Panels::new(&words, tokens, w.k()))
    } else {
        Input::Rows(x)
    };
    tier.matmul(w, 0..w.row_blocks(), input, &mut out);
    let rows_of = y.chunks_exact(stride);
    assert!(rows_of.clone().all(|row| row[rows..] == [MARK; 3]), "wrote past the rows");
    rows_of.flat_map(|row| &row[..rows]).copied().collect()
}

#[test]
fn every_tier_equals_portable() {
    let mut rng = Rng::new(1);
    for format in Format::ALL {
        for (k, data) in KS.into_iter().flat_map(|k| [(k, Data::Random), (k, Data::Extreme)]) {
            let bytes = packed(&mut rng, format, ROWS, k, data);
            let x = activations(&mut rng, TOKENS, k, data);
            let whole = Matrix::new(format, ROWS, k, &bytes).unwrap();
            let expected = product(&Portable, &whole, &x, TOKENS);
            let all = (1..=ROWS).flat_map(|rows| (1..=TOKENS).map(move |tokens| (rows, tokens)));
            // Of the longest rows, and on a CPU that qemu plays, every eleventh shape, to save time: 11 is prime to both
            // counts.
            let fewer = k > 300 || std::env::var_os("QEMU_CPU").is_some();
            for (rows, tokens) in all.step_by(if fewer { 11 } else { 1 }) {
                // Fewer rows of the same bytes: what follows in the last row-block must not be written.
                let w = Matrix::new(format, rows, k, &bytes).unwrap();
                let expected: Vec<f32> =
                    expected.chunks_exact(ROWS).take(tokens).flat_map(|y| &y[..rows]).copied().collect();
                for tier in tiers() {
                    let found = product(tier, &w, &x[..tokens * k], tokens);
                    let what = || format!("{} {format} {data:?} {rows} x {k}, {tokens} tokens", tier.name());
                    assert_bits(&found, &expected, what);
                }
            }
        }
    }
}

/// More tokens than are computed between two readings of the weights, and than between two passes over them; more groups
/// than are unpacked at once, odd numbers of row-blocks.
#[test]
fn many_tokens_equal_portable() {
    let mut rng = Rng::new(9);
    for format in Format::ALL.into_iter().filter(|format| format.is_quantised()) {
        for (rows, k, tokens) in [(33, 520, 61), (49, 1100, 121), (17, 2100, 130), (40, 64, 500)] {
            let bytes = packed(&mut rng, format, rows, k, Data::Random);
            let x = activations(&mut rng, tokens, k, Data::Random);
            let w = Matrix::new(format, rows, k, &bytes).unwrap();
            let expected = product(&Portable, &w, &x, tokens);
            for tier in tiers() {
                let what = || format!("{} {format} {rows} x {k}, {tokens} tokens", tier.name());
                assert_bits(&product(tier, &w, &x, tokens), &expected, what);
            }
        }
    }
}

#[test]
fn portable_is_near_f64() {
    let mut rng = Rng::new(2);
    for format in Format::ALL {
        for (k, data) in KS.into_iter().flat_map(|k| [(k, Data::Random), (k, Data::Extreme)]) {
            let (rows, tokens) = (19, 3);
            let mut canonical = canonical(&mut rng, format, rows, k, data);
            let bytes = packed_of(format, rows, k, &canonical);
            let x = activations(&mut rng, tokens, k, data);
            let w = Matrix::new(format, rows, k, &bytes).unwrap();
            let y = product(&Portable, &w, &x, tokens);
            // The same weights with codes of zero: their minima, negated, which the codes' part may almost cancel.
            let minima = matches!(format, Format::Q4K | Format::Q5K);
            canonical
                .chunks_exact_mut(format.unit_bytes())
                .filter(|_| minima)
                .for_each(|unit| unit[16..].fill(0));
            let base = packed_of(format, rows, k, &canonical);
            let base = Matrix::new(format, rows, k, &base).unwrap();
            let mut base_row = vec![0.0; k];
            let seen: Vec<f64> = if format.is_quantised() {
                x.chunks_exact(k)
                    .flat_map(|x| x.chunks(32).flat_map(requantised).collect::<Vec<_>>())
                    .collect()
            } else {
                x.iter().copied().map(f64::from).collect()
            };
            let mut row = vec![0.0; k];
            for r in 0..rows {
                Portable.row(&w, r, &mut row);
                if minima {
                    Portable.row(&base, r, &mut base_row);
                }
                for t in 0..tokens {
                    let (mut sum, mut size) = (0.0, 0.0);
                    for ((w, base), x) in row.iter().zip(&base_row).zip(&seen[t * k..]) {
                        let (w, base) = (f64::from(*w), f64::from(*base));
                        sum += w * x;
                        size += ((w - base).abs() + base.abs()) * x.abs();
                    }
                    let links = if format.is_quantised() { k.div_ceil(32) } else { k };
                    let links = if minima { 2 * links } else { links };
                    let bound = size * (links + 4) as f64 * 2.0f64.powi(-24);
                    let found = f64::from(y[t * rows + r]);
                    assert!((found - sum).abs() <= bound, "{format} {data:?} k {k}: {found} is not {sum}");
                }
            }
        }
    }
}

/// One group as int8 times its scale, in f64 from the formula's f32 scale.
fn requantised(x: &[f32]) -> Vec<f64> {
    let amax = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    if amax < 1e-30 {
        return vec![0.0; x.len()];
    }
    let scale = f64::from(amax / 127.0);
    x.iter().map(|x| f64::from((x * (127.0 / amax)).round_ties_even()) * scale).collect()
}

#[test]
fn rows_equal_the_definition_of_the_formats() {
    let mut rng = Rng::new(3);
    for format in Format::ALL {
        for k in KS {
            let canonical = canonical(&mut rng, format, 18, k, Data::Random);
            let mut bytes = vec![0; layout::packed_bytes(format, 18, k).unwrap() as usize];
            pack::pack(format, 18, k, &canonical, &mut bytes).unwrap();
            let w = Matrix::new(format, 18, k, &bytes).unwrap();
            let (mut found, mut expected) = (vec![0.0; k], vec![0.0; k]);
            for (r, row) in canonical.chunks_exact(format.row_bytes(k).unwrap()).enumerate() {
                lfm_graphs::weights::dequant::dequantise_row(format, row, &mut expected).unwrap();
                for tier in super::available() {
                    tier.row(&w, r, &mut found);
                    assert_bits(&found, &expected, || format!("{} {format} row {r} of k {k}", tier.name()));
                }
            }
        }
    }
}

#[test]
fn parts_and_pairs_equal_the_whole() {
    let mut rng = Rng::new(4);
    let (rows, k) = (90, 300);
    for (format, tokens) in
        Format::ALL.into_iter().flat_map(|format| [1, 2, 11].map(|tokens| (format, tokens)))
    {
        let bytes = [0, 1].map(|_| packed(&mut rng, format, rows, k, Data::Random));
        let w = bytes.each_ref().map(|bytes| Matrix::new(format, rows, k, bytes).unwrap());
        let x = activations(&mut rng, tokens, k, Data::Random);
        let mut words = vec![0; words_needed(tokens, k)];
        Portable.quantize(&x, &mut PanelsMut::new(&mut words, tokens, k));
        let panels = Panels::new(&words, tokens, k);
        let input = if format.is_quantised() { Input::Panels(panels) } else { Input::Rows(&x) };
        for tier in super::available() {
            let expected = w.map(|w| product(&Portable, &w, &x, tokens));
            let mut y = [vec![0.0; tokens * rows], vec![0.0; tokens * rows]];
            let [a, b] = &mut y;
            let (mut a, mut b) = (Cols::new(a, tokens, rows), Cols::new(b, tokens, rows));
            for blocks in [0..1, 1..4, 4..4, 4..6] {
                let width = w[0].rows_in(&blocks);
                let ((mut left, a_rest), (mut right, b_rest)) = (a.split_at(width), b.split_at(width));
                tier.matmul2([&w[0], &w[1]], blocks, input, [&mut left, &mut right]);
                (a, b) = (a_rest, b_rest);
            }
            for (found, expected) in y.iter().zip(&expected) {
                assert_bits(found, expected, || format!("{} {format} {tokens} tokens", tier.name()));
            }
        }
    }
}

#[test]
fn short_bytes_are_refused() {
    for format in Format::ALL {
        let needed = 3 * layout::row_block_bytes(format, 65).unwrap();
        let bytes = vec![0; needed];
        assert!(Matrix::new(format, 48, 65, &bytes).is_ok());
        let error = Matrix::new(format, 48, 65, &bytes[1..]).unwrap_err().to_string();
        assert!(error.contains(&format!("expected at least {needed}")), "{error}");
        assert!(Matrix::new(format, 48, 0, &bytes).is_err());
        assert!(Matrix::new(format, usize::MAX, usize::MAX, &bytes).is_err());
    }
}
