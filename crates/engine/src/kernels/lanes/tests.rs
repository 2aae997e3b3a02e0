//! Every instruction set that this CPU has does what [`Lanes`] says.

use super::super::math::tests::floats;
use super::*;

/// Runs a kernel with the registers of every instruction set that this CPU has.
pub(in crate::kernels) fn with_all_lanes(kernel: impl Kernel + Copy) {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(lanes) = x86::Avx512::detect() {
            lanes.run(kernel);
        }
        if let Some(lanes) = x86::Avx2::detect() {
            lanes.run(kernel);
        }
    }
    #[cfg(target_arch = "aarch64")]
    kernel.run(neon::Neon);
    kernel.run(Portable);
}

#[inline(always)]
fn load<L: Lanes>(lanes: L, from: &[f32]) -> L::V {
    assert!(from.len() >= L::LANES);
    // SAFETY: just checked.
    unsafe { lanes.load(from.as_ptr()) }
}

#[inline(always)]
fn unload<L: Lanes>(lanes: L, a: L::V) -> Vec<f32> {
    let mut out = vec![0.0; L::LANES];
    // SAFETY: as long as a register.
    unsafe { lanes.store(out.as_mut_ptr(), a) };
    out
}

#[derive(Clone, Copy)]
struct Arithmetic;

impl Kernel for Arithmetic {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let a: Vec<f32> = (0..L::LANES).map(|i| i as f32 - 3.5).collect();
        let b: Vec<f32> = (0..L::LANES).map(|i| 5.0 - i as f32 * 0.75).collect();
        let (va, vb, vc) = (load(lanes, &a), load(lanes, &b), lanes.splat(0.25));
        let expect = |found, f: fn(f32, f32) -> f32| {
            let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| f(*a, *b)).collect();
            assert_eq!(unload(lanes, found), expected);
        };
        expect(lanes.add(va, vb), |a, b| a + b);
        expect(lanes.sub(va, vb), |a, b| a - b);
        expect(lanes.mul(va, vb), |a, b| a * b);
        // Exact in either way.
        expect(lanes.mul_add(va, vb, vc), |a, b| a * b + 0.25);
        expect(lanes.max(va, vb), f32::max);
        expect(lanes.shift_to_exponent(va), |a, _| f32::from_bits(a.to_bits() << 23));
        let nan = unload(lanes, lanes.max(va, lanes.splat(f32::NAN)));
        assert!(nan.iter().all(|lane| lane.is_nan()));
        for count in 0..=L::LANES {
            let mut out = vec![f32::INFINITY; L::LANES];
            // SAFETY: as long as a register.
            unsafe { lanes.store_first(out.as_mut_ptr(), va, count) };
            assert_eq!(out[..count], a[..count]);
            assert!(out[count..].iter().all(|untouched| untouched.is_infinite()));
        }
    }
}

#[test]
fn arithmetic_is_that_of_each_lane() {
    with_all_lanes(Arithmetic);
}

#[derive(Clone, Copy)]
struct Transpose;

impl Kernel for Transpose {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let (from_stride, to_stride) = (L::LANES + 3, L::LANES + 1);
        let from: Vec<f32> = (0..L::LANES * from_stride).map(|i| i as f32).collect();
        let mut to = vec![-1.0; L::LANES * to_stride];
        // SAFETY: both have `LANES` rows of more than `LANES` values.
        unsafe { lanes.transpose(from.as_ptr(), from_stride, to.as_mut_ptr(), to_stride) };
        for (row, values) in to.chunks(to_stride).enumerate() {
            for (column, value) in values[..L::LANES].iter().enumerate() {
                assert_eq!(*value, from[column * from_stride + row]);
            }
            assert_eq!(values[L::LANES], -1.0);
        }
    }
}

#[test]
fn transpose_exchanges_rows_and_columns() {
    with_all_lanes(Transpose);
}

#[derive(Clone, Copy)]
struct Exp2;

impl Kernel for Exp2 {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let inputs: Vec<f32> = floats(4099).chain([-126.5, -126.49, 127.0]).filter(|x| *x <= 127.0).collect();
        for inputs in inputs.chunks_exact(L::LANES) {
            let found = unload(lanes, lanes.exp2(load(lanes, inputs)));
            for (x, found) in inputs.iter().zip(found) {
                let expected = f64::from(*x).exp2();
                if *x <= -126.5 {
                    assert_eq!(found, 0.0, "2^{x}");
                } else {
                    let error = (f64::from(found) - expected).abs() / expected;
                    assert!(error < 2e-7, "2^{x} = {found}, expected {expected}");
                }
            }
        }
        let of = |x| unload(lanes, lanes.exp2(lanes.splat(x)))[0];
        assert!(of(f32::NAN).is_nan());
        assert_eq!([of(0.0), of(-1.0), of(f32::NEG_INFINITY)], [1.0, 0.5, 0.0]);
    }
}

#[test]
fn exp2_is_accurate_over_all_floats() {
    with_all_lanes(Exp2);
}
