//! Formats against what ml_dtypes and onnx say (recorded.txt, by xtask/fixtures/low_bit.py), and against themselves.

use super::*;
use crate::graph::DataType;

const TYPES: [DataType; 10] = [
    DataType::I4,
    DataType::U4,
    DataType::I2,
    DataType::U2,
    DataType::F8E4M3Fn,
    DataType::F8E4M3FnUz,
    DataType::F8E5M2,
    DataType::F8E5M2FnUz,
    DataType::F8E8M0,
    DataType::F4E2M1,
];

/// The rest of the lines that begin with these words.
fn recorded(first: &str, dtype: DataType) -> impl Iterator<Item = &'static str> {
    let lines = include_str!("recorded.txt").lines();
    let start = format!("{first} {} ", dtype.name());
    lines.filter_map(move |line| line.strip_prefix(start.as_str()))
}

fn hexadecimal(word: &str) -> u32 {
    u32::from_str_radix(word, 16).unwrap()
}

fn codes(format: Format) -> impl Iterator<Item = u8> {
    0..=format.mask()
}

#[test]
fn codes_stand_for_the_recorded_numbers() {
    for dtype in TYPES {
        let format = dtype.low_bit().unwrap();
        let numbers: Vec<&str> = recorded("numbers", dtype).next().unwrap().split(' ').collect();
        assert_eq!(numbers.len(), 1 << format.bits(), "{dtype}");
        for (code, word) in codes(format).zip(numbers) {
            let number = format.decode(code);
            if word == "nan" {
                assert!(number.is_nan(), "{dtype} {code:x}");
            } else {
                assert_eq!(number.to_bits(), hexadecimal(word), "{dtype} {code:x}");
            }
        }
    }
}

#[test]
fn numbers_get_the_recorded_codes() {
    let mut count = 0;
    for dtype in TYPES {
        let format = dtype.low_bit().unwrap();
        for line in recorded("codes", dtype) {
            let (conversion, pairs) = line.split_once(' ').unwrap();
            let conversion = match conversion {
                "saturate" => Conversion::default(),
                "wrap" => Conversion { saturates: false, ..Conversion::default() },
                "up" => Conversion { rounding: Rounding::Up, ..Conversion::default() },
                "down" => Conversion { rounding: Rounding::Down, ..Conversion::default() },
                "nearest" => Conversion { rounding: Rounding::Nearest, ..Conversion::default() },
                other => panic!("{other}"),
            };
            for (value, code) in pairs.split(' ').map(|pair| pair.split_once(':').unwrap()) {
                let value = f32::from_bits(hexadecimal(value));
                let found = format.encode(value.into(), conversion);
                assert_eq!(u32::from(found), hexadecimal(code), "{dtype} {value:e} {conversion:?}");
                count += 1;
            }
        }
    }
    assert!(count > 900, "{count}");
}

#[test]
fn numbers_that_have_a_code_get_it_back() {
    for dtype in TYPES {
        let format = dtype.low_bit().unwrap();
        for code in codes(format) {
            let number = format.decode(code);
            for saturates in [true, false] {
                let conversion = Conversion { saturates, ..Conversion::default() };
                let found = format.encode(number.into(), conversion);
                if number.is_nan() {
                    assert!(format.decode(found).is_nan(), "{dtype} {code:x}");
                } else if number.is_infinite() && saturates {
                    assert_eq!(found, code - 1, "{dtype}");
                } else {
                    assert_eq!(found, code, "{dtype}");
                }
            }
        }
    }
}

/// Every half between two neighbours, and what is just below and above it.
#[test]
fn numbers_between_codes_get_the_nearest() {
    for dtype in TYPES.into_iter().filter(|dtype| !matches!(dtype, DataType::F8E8M0)) {
        let format = dtype.low_bit().unwrap();
        if format.is_int() {
            continue;
        }
        let mut finite: Vec<(f64, u8)> =
            codes(format).map(|code| (format.decode(code).into(), code)).collect();
        finite.retain(|(number, _)| number.is_finite() && number.is_sign_positive());
        finite.sort_by(|a, b| a.0.total_cmp(&b.0));
        for pair in finite.windows(2) {
            let [(below, low), (above, high)] = [pair[0], pair[1]];
            let half = (below + above) / 2.0;
            let even = if low % 2 == 0 { low } else { high };
            for (number, code) in [(half.next_down(), low), (half, even), (half.next_up(), high)] {
                assert_eq!(format.encode(number, Conversion::default()), code, "{dtype} {number:e}");
            }
        }
    }
}

#[test]
fn powers_of_two_follow_the_table_of_the_standard() {
    let format = Format::PowerOfTwo;
    let encode = |value: f64, saturates, rounding| format.encode(value, Conversion { saturates, rounding });
    // 0, NaN, infinity, above the largest, below the smallest.
    let special = [0.0, f64::NAN, f64::INFINITY, 1e39, 1e-39];
    assert_eq!(special.map(|value| encode(value, true, Rounding::Up)), [0, 255, 254, 254, 0]);
    assert_eq!(special.map(|value| encode(value, false, Rounding::Nearest)), [255; 5]);
    assert_eq!(encode(f64::from_bits(1), true, Rounding::Up), 0);
    let largest = 2f64.powi(127);
    for (factor, rounding, code) in [
        (1.0, Rounding::Up, 254),
        (1.1, Rounding::Up, 255),
        (1.1, Rounding::Nearest, 254),
        (1.5, Rounding::Nearest, 255),
        (1.9, Rounding::Down, 254),
    ] {
        assert_eq!(encode(largest * factor, false, rounding), code, "{factor} {rounding:?}");
    }
    assert_eq!(encode(-1.0, true, Rounding::Up), 255);
}

#[test]
fn integers_lose_their_high_bits() {
    let encode = |dtype: DataType, values: [i64; 5]| {
        let format = dtype.low_bit().unwrap();
        values.map(|value| format.decode(format.encode_int(value)))
    };
    let values = [-9, -1, 7, 8, i64::MIN];
    assert_eq!(encode(DataType::I4, values), [7.0, -1.0, 7.0, -8.0, 0.0]);
    assert_eq!(encode(DataType::U4, values), [7.0, 15.0, 7.0, 8.0, 0.0]);
    assert_eq!(encode(DataType::I2, values), [-1.0, -1.0, -1.0, 0.0, 0.0]);
    assert_eq!(encode(DataType::U2, values), [3.0, 3.0, 3.0, 0.0, 0.0]);
    assert_eq!(U4::from_code(0xF3).code(), 3);
    assert_eq!(DataType::I4.low_bit().and_then(Format::int_range), Some([-8, 7]));
    assert_eq!(DataType::U2.low_bit().and_then(Format::int_range), Some([0, 3]));
}
