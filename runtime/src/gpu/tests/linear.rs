//! Products, quantisation and embedding in every format.

use lfm_graphs::weights::{Format, layout};

use super::{Bench, Rng, assert_near};
use crate::cpu::kernels::{Cols, Input, Kernels, Panels, PanelsMut, Portable, words_needed};
use crate::exec::{Kind, MatrixAt, Operand, PanelsAt, Rows};
use crate::gpu::kernels::linear;

/// Around the edges of tiles: 16 rows, 64 rows, 32 rows of x; 32, 64 and 256 along K.
const SHAPES: [(usize, usize, usize); 10] = [
    (1, 1, 1),
    (1, 16, 64),
    (1, 17, 65),
    (1, 64, 256),
    (1, 70, 600),
    (2, 16, 32),
    (3, 65, 257),
    (31, 63, 31),
    (33, 80, 320),
    (64, 130, 129),
];

/// Rows of x as the CPU multiplies them.
fn portable(bench: &Bench, w: &MatrixAt, x: &[f32], rows: usize) -> Vec<f32> {
    let view = bench.view(w, 0);
    let mut words = vec![0; words_needed(rows, w.k)];
    let input = if w.format.is_quantised() {
        Portable.quantize(x, &mut PanelsMut::new(&mut words, rows, w.k));
        Input::Panels(Panels::new(&words, rows, w.k))
    } else {
        Input::Rows(x)
    };
    let mut out = vec![0.0; rows * w.rows];
    Portable.matmul(&view, 0..view.row_blocks(), input, &mut Cols::new(&mut out, rows, w.rows));
    out
}

/// How far a product on hardware may be: an int8 code at a tie may round the other way.
fn most(format: Format) -> f32 {
    if format.is_quantised() { 5e-3 } else { 2e-5 }
}

fn operand(bench: &mut Bench, format: Format, x: Rows, rows: usize) -> Operand {
    let panels = format
        .is_quantised()
        .then(|| PanelsAt { start: bench.room(words_needed(rows, x.width)), make: true });
    Operand { rows: x, panels }
}

#[test]
fn linear_is_the_portable_one() {
    let mut rng = Rng::new(2);
    for format in Format::ALL {
        for (rows, n, k) in SHAPES {
            for extras in [false, true] {
                let Some(mut bench) = Bench::new() else { return };
                let w = bench.random_matrix(&mut rng, format, 1, n, k);
                let (values, bias, residual) = (rng.units(rows * k), rng.units(n), rng.units(rows * n));
                let x = bench.rows(k, &values);
                let x = operand(&mut bench, format, x, rows);
                let out = bench.empty(rows, n);
                let bias_at = extras.then(|| bench.vector(&bias));
                let residual_at = extras.then(|| bench.rows(n, &residual));
                let kind = Kind::Linear { x, w, bias: bias_at, residual: residual_at, out };
                let ran = bench.run(kind, rows, 0, |b| {
                    b.subgroups &= extras;
                    linear::linear(b, x, &w, bias_at.as_ref(), residual_at, out)
                });
                let mut expected = portable(&bench, &w, &values, rows);
                if extras {
                    for (i, y) in expected.iter_mut().enumerate() {
                        *y = (*y + bias[i % n]) + residual[i];
                    }
                }
                assert_near(
                    &ran.floats(out, rows),
                    &expected,
                    bench.within(most(format)),
                    &format!("{format}: {rows} x {n} x {k}"),
                );
            }
        }
    }
}

#[test]
fn swiglu_is_the_portable_one() {
    let mut rng = Rng::new(3);
    for format in Format::ALL {
        for (rows, n, k) in SHAPES {
            let Some(mut bench) = Bench::new() else { return };
            let gate = bench.random_matrix(&mut rng, format, 1, n, k);
            let up = bench.random_matrix(&mut rng, format, 1, n, k);
            let values = rng.units(rows * k);
            let x = bench.rows(k, &values);
            let x = operand(&mut bench, format, x, rows);
            let out = bench.empty(rows, n);
            let ran = bench.run(Kind::SwiGlu { x, gate, up, out }, rows, 0, |b| {
                b.subgroups &= n.is_multiple_of(2);
                linear::swiglu(b, x, &gate, &up, out)
            });
            let mut expected = vec![0.0; rows * n];
            let [gates, ups] = [&gate, &up].map(|w| portable(&bench, w, &values, rows));
            Portable.silu_mul(&gates, &ups, &mut expected);
            assert_near(
                &ran.floats(out, rows),
                &expected,
                bench.within(most(format)),
                &format!("{format}: {rows} x {n} x {k}"),
            );
        }
    }
}

#[test]
fn embedding_is_the_portable_one() {
    let mut rng = Rng::new(4);
    for format in Format::ALL {
        for (rows, k) in [(1, 1), (50, 32), (17, 65), (40, 300)] {
            let Some(mut bench) = Bench::new() else { return };
            let table = bench.random_matrix(&mut rng, format, 1, rows, k);
            let tokens: Vec<u32> = (0..11).map(|_| rng.below(rows) as u32).collect();
            let out = bench.empty(tokens.len(), k);
            let ran = bench.run_call(Kind::Embed { table, out }, [tokens.len() as u32, 0, 0], &tokens, |b| {
                linear::embed(b, &table, out)
            });
            let mut expected = vec![0.0; tokens.len() * k];
            for (token, out) in tokens.iter().zip(expected.chunks_mut(k)) {
                Portable.row(&bench.view(&table, 0), *token as usize, out);
            }
            assert_near(
                &ran.floats(out, tokens.len()),
                &expected,
                bench.within(1e-6),
                &format!("{format}: {rows} x {k}"),
            );
        }
    }
}

#[test]
fn quantisation_is_the_portable_one() {
    let mut rng = Rng::new(5);
    for (rows, k) in [(1, 1), (3, 31), (2, 256), (4, 300)] {
        let Some(mut bench) = Bench::new() else { return };
        let mut values = rng.units(rows * k);
        values[0] = 0.0;
        let x = bench.rows(k, &values);
        let panels = bench.room(words_needed(rows, k));
        let kind = Kind::Add { a: x, b: x, out: x };
        let ran = bench.run(kind, rows, 0, |b| linear::quantise(b, x, panels, 1));
        let groups = k.div_ceil(256) * 8;
        for row in 0..rows {
            let words = &ran.arena[panels + row * words_needed(1, k)..];
            for g in 0..groups {
                let group: Vec<f32> =
                    (32 * g..32 * g + 32).map(|i| if i < k { values[row * k + i] } else { 0.0 }).collect();
                let most = group.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                let inverse = if most > 0.0 { 127.0 / most } else { 0.0 };
                let scale = f32::from_bits(words[8 * groups + g]);
                assert!((scale - most / 127.0).abs() <= 1e-6 * most, "{rows} x {k}: {scale} of {most}");
                let codes: Vec<i8> =
                    words[8 * g..8 * g + 8].iter().flat_map(|w| w.to_le_bytes()).map(|b| b as i8).collect();
                for (code, x) in codes.iter().zip(&group) {
                    // A device may divide with an error of 2.5 ulp.
                    assert!((f32::from(*code) - x * inverse).abs() <= 0.501, "{rows} x {k}: {code} of {x}");
                }
                let sum = |codes: &[i8]| codes.iter().map(|c| i32::from(*c)).sum::<i32>();
                let packed = words[9 * groups + g] as i32;
                assert_eq!([packed << 16 >> 16, packed >> 16], [sum(&codes[..16]), sum(&codes[16..])]);
            }
        }
    }
}

#[test]
fn a_matrix_may_lie_in_several_buffers() {
    let mut rng = Rng::new(8);
    for format in Format::ALL {
        // A binding holds some row-blocks: two of them full, and a part of a third.
        let (k, binding) = (256, 32 << 10);
        let n = 16 * (2 * (binding / layout::row_block_bytes(format, k).unwrap())) + 24;
        for rows in [1, 5] {
            let Some(mut bench) = Bench::small_bindings(binding as u64) else { return };
            let w = bench.random_matrix(&mut rng, format, 1, n, k);
            let values = rng.units(rows * k);
            let x = bench.rows(k, &values);
            let x = operand(&mut bench, format, x, rows);
            let (out, row) = (bench.empty(rows, n), bench.empty(rows, k));
            let tokens: Vec<u32> = (0..rows).map(|_| rng.below(n) as u32).collect();
            let kind = Kind::Linear { x, w, bias: None, residual: None, out };
            let ran = bench.run_call(kind, [rows as u32, 0, 0], &tokens, |b| {
                assert!(b.memory.pieces(&w).len() > 2, "{format} lies in one buffer");
                linear::embed(b, &w, row)?;
                linear::linear(b, x, &w, None, None, out)
            });
            let expected = portable(&bench, &w, &values, rows);
            assert_near(&ran.floats(out, rows), &expected, bench.within(most(format)), format.name());
            for (token, found) in tokens.iter().zip(ran.floats(row, rows).chunks(k)) {
                let mut expected = vec![0.0; k];
                Portable.row(&bench.view(&w, 0), *token as usize, &mut expected);
                assert_near(found, &expected, bench.within(1e-6), format.name());
            }
        }
    }
}
