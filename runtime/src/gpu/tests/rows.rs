//! Norms, rotary embedding, sums, the choice of rows.

use super::{Bench, Rng, assert_near};
use crate::cpu::kernels::{Kernels, Portable};
use crate::exec::{Kind, Rows};
use crate::gpu::kernels::rows;

#[test]
fn norms_are_the_portable_ones() {
    let mut rng = Rng::new(1);
    for (rows, times, width) in [(1, 1, 1), (3, 1, 63), (2, 4, 64), (5, 2, 65), (1, 1, 1024)] {
        let Some(mut bench) = Bench::new() else { return };
        let values = rng.units(rows * times * width);
        let weight = rng.units(width);
        let x = bench.rows(times * width, &values);
        let out = bench.empty(rows, times * width);
        let at = bench.vector(&weight);
        let ran = bench
            .run(Kind::Norm { x, weight: at, eps: 1e-5, out }, rows, 0, |b| rows::norm(b, x, &at, 1e-5, out));
        let mut expected = vec![0.0; values.len()];
        for (x, out) in values.chunks(width).zip(expected.chunks_mut(width)) {
            Portable.rms_norm(x, &weight, 1e-5, out);
        }
        assert_near(
            &ran.floats(out, rows),
            &expected,
            bench.within(1e-5),
            &format!("{rows} x {times} x {width}"),
        );
    }
}

/// A kind of step that needs no weights.
fn plain(x: Rows) -> Kind {
    Kind::Add { a: x, b: x, out: x }
}

#[test]
fn heads_are_turned_by_the_angles_of_their_rows() {
    let mut rng = Rng::new(6);
    for (rows, heads, half, past) in [(1, 1, 1, 0), (3, 5, 4, 7), (2, 3, 32, 100_000), (40, 2, 35, 1)] {
        let Some(mut bench) = Bench::new() else { return };
        let width = heads * 2 * half;
        let values = rng.units(rows * width);
        let inv_freq: Vec<f32> = (0..half).map(|i| 1e4f32.powf(-(i as f32) / half as f32)).collect();
        let x = bench.rows(width, &values);
        let (cos, sin) = (bench.empty(rows, half), bench.empty(rows, half));
        let out = bench.empty(rows, width);
        let ran = bench.run(plain(x), rows, past, |b| {
            let mut table = rows::rope_table(b, &inv_freq, cos, sin)?;
            table.write(b.gpu, past, rows);
            rows::rope(b, x, cos, sin, out)
        });
        let (cos, sin) = (ran.floats(cos, rows), ran.floats(sin, rows));
        for (row, (cos, sin)) in cos.chunks(half).zip(sin.chunks(half)).enumerate() {
            for ((cos, sin), frequency) in cos.iter().zip(sin).zip(&inv_freq) {
                let angle = f64::from((past + row) as f32 * frequency);
                assert!((f64::from(*cos) - angle.cos()).abs() < 1e-6, "cos {angle}");
                assert!((f64::from(*sin) - angle.sin()).abs() < 1e-6, "sin {angle}");
            }
        }
        let mut expected = values;
        for (row, x) in expected.chunks_mut(width).enumerate() {
            let at = row * half..(row + 1) * half;
            Portable.rope(x, &cos[at.clone()], &sin[at]);
        }
        assert_near(
            &ran.floats(out, rows),
            &expected,
            bench.within(1e-6),
            &format!("{rows} x {heads} x {half}"),
        );
    }
}

#[test]
fn sums_and_chosen_rows_are_exact() {
    let mut rng = Rng::new(7);
    for (rows, width) in [(1, 1), (3, 64), (2, 65), (5, 1000)] {
        let Some(mut bench) = Bench::new() else { return };
        let (a, b) = (rng.units(rows * width), rng.units(rows * width));
        let (a_at, b_at) = (bench.rows(width, &a), bench.rows(width, &b));
        let out = bench.empty(rows, width);
        let ran = bench.run(plain(a_at), rows, 0, |b| rows::add(b, a_at, b_at, out));
        let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        assert_eq!(ran.floats(out, rows), expected);
        let ran = bench.run_call(plain(a_at), [1, 0, rows as u32 - 1], &[], |b| rows::last_row(b, a_at, out));
        assert_eq!(ran.floats(out, 1), a[(rows - 1) * width..]);
    }
}
