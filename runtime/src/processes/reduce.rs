//! Results of a collective, from the operands of a group.

use proto::{
    hlo_processes::{Combine, Exchange, Kind},
    xla::PrimitiveType,
};

/// Computes the result of member `position` of the group `members` into `out`. `parts` are the members'
/// operands in the order of the group; all bytes are dense and row-major.
///
/// # Errors
/// Sizes do not fit, or the element type cannot be combined.
pub fn result(
    of: &Exchange,
    members: &[usize],
    parts: &[&[u8]],
    position: usize,
    out: &mut [u8],
) -> Result<(), String> {
    let width = width(of.element).ok_or_else(|| format!("elements of type {:?}", of.element))?;
    let bytes = of.sizes.iter().product::<usize>() * width;
    if let Some(part) = parts.iter().find(|part| part.len() != bytes) {
        return Err(format!("an operand of {} bytes where {bytes} belong", part.len()));
    }
    match &of.kind {
        Kind::AllReduce(function) => combine(of.element, *function, parts, out),
        Kind::AllGather { dim } => {
            let (outer, inner) = around(&of.sizes, *dim, width);
            let row = of.sizes[*dim] * inner;
            check(out, bytes * parts.len())?;
            for (o, target) in out.chunks_exact_mut((row * parts.len()).max(1)).enumerate().take(outer) {
                for (part, target) in parts.iter().zip(target.chunks_exact_mut(row.max(1))) {
                    target.copy_from_slice(&part[o * row..(o + 1) * row]);
                }
            }
            Ok(())
        }
        Kind::ReduceScatter { combine: function, dim } => {
            let own: Vec<Vec<u8>> =
                parts.iter().map(|part| slice(of, width, *dim, part, position, parts.len())).collect();
            let own: Vec<&[u8]> = own.iter().map(Vec::as_slice).collect();
            combine(of.element, *function, &own, out)
        }
        Kind::AllToAll { dim } => {
            let (outer, inner) = around(&of.sizes, *dim, width);
            let row = of.sizes[*dim] / parts.len() * inner;
            check(out, bytes)?;
            for (o, target) in out.chunks_exact_mut((row * parts.len()).max(1)).enumerate().take(outer) {
                for (part, target) in parts.iter().zip(target.chunks_exact_mut(row.max(1))) {
                    let start = (o * parts.len() + position) * row;
                    target.copy_from_slice(&part[start..start + row]);
                }
            }
            Ok(())
        }
        Kind::Permute { pairs } => {
            check(out, bytes)?;
            let sender = pairs.iter().find(|(_, to)| Some(to) == members.get(position)).map(|(from, _)| from);
            match sender.and_then(|from| members.iter().position(|m| m == from)) {
                Some(from) => out.copy_from_slice(parts[from]),
                None => out.fill(0),
            }
            Ok(())
        }
    }
}

/// Part `index` of `count` of an operand along `dim`.
fn slice(of: &Exchange, width: usize, dim: usize, part: &[u8], index: usize, count: usize) -> Vec<u8> {
    let (outer, inner) = around(&of.sizes, dim, width);
    let row = of.sizes[dim] / count * inner;
    let rows = (0..outer).map(|o| {
        let start = (o * count + index) * row;
        &part[start..start + row]
    });
    rows.collect::<Vec<_>>().concat()
}

/// The number of elements before `dim`, and the bytes behind it.
fn around(sizes: &[usize], dim: usize, width: usize) -> (usize, usize) {
    (sizes[..dim].iter().product(), sizes[dim + 1..].iter().product::<usize>() * width)
}

fn check(out: &[u8], bytes: usize) -> Result<(), String> {
    if out.len() == bytes {
        Ok(())
    } else {
        Err(format!("a result of {} bytes where {bytes} belong", out.len()))
    }
}

/// Bytes of an element.
fn width(element: PrimitiveType) -> Option<usize> {
    use PrimitiveType as T;
    match element {
        T::Pred | T::S8 | T::U8 => Some(1),
        T::S16 | T::U16 | T::F16 | T::Bf16 => Some(2),
        T::S32 | T::U32 | T::F32 => Some(4),
        T::S64 | T::U64 | T::F64 => Some(8),
        _ => None,
    }
}

/// Combines operands elementwise, in their order. Narrow floats are summed in float32 and rounded once, as
/// XLA does.
fn combine(element: PrimitiveType, function: Combine, parts: &[&[u8]], out: &mut [u8]) -> Result<(), String> {
    use PrimitiveType as T;
    let Some(first) = parts.first() else { return Err("a group without members".into()) };
    check(out, first.len())?;
    match element {
        T::F32 => floats(function, parts, out, f32::from_ne_bytes, f32::to_ne_bytes),
        T::F64 => floats(function, parts, out, f64::from_ne_bytes, f64::to_ne_bytes),
        T::Bf16 => narrow(
            function,
            parts,
            out,
            |b| half::bf16::from_ne_bytes(b).to_f32(),
            |x| half::bf16::from_f32(x).to_ne_bytes(),
        ),
        T::F16 => narrow(
            function,
            parts,
            out,
            |b| half::f16::from_ne_bytes(b).to_f32(),
            |x| half::f16::from_f32(x).to_ne_bytes(),
        ),
        T::Pred | T::U8 => integers::<u8, 1>(function, parts, out, u8::from_ne_bytes, u8::to_ne_bytes),
        T::S8 => integers::<i8, 1>(function, parts, out, i8::from_ne_bytes, i8::to_ne_bytes),
        T::S16 => integers::<i16, 2>(function, parts, out, i16::from_ne_bytes, i16::to_ne_bytes),
        T::U16 => integers::<u16, 2>(function, parts, out, u16::from_ne_bytes, u16::to_ne_bytes),
        T::S32 => integers::<i32, 4>(function, parts, out, i32::from_ne_bytes, i32::to_ne_bytes),
        T::U32 => integers::<u32, 4>(function, parts, out, u32::from_ne_bytes, u32::to_ne_bytes),
        T::S64 => integers::<i64, 8>(function, parts, out, i64::from_ne_bytes, i64::to_ne_bytes),
        T::U64 => integers::<u64, 8>(function, parts, out, u64::from_ne_bytes, u64::to_ne_bytes),
        _ => return Err(format!("elements of type {element:?} cannot be combined")),
    }
    Ok(())
}

/// Combines elements of `N` bytes.
fn fold<V: Copy, const N: usize>(
    parts: &[&[u8]],
    out: &mut [u8],
    read: impl Fn([u8; N]) -> V,
    write: impl Fn(V) -> [u8; N],
    join: impl Fn(V, V) -> V,
) {
    for (i, target) in out.chunks_exact_mut(N).enumerate() {
        let value = |part: &[u8]| {
            let mut bytes = [0; N];
            bytes.copy_from_slice(&part[i * N..(i + 1) * N]);
            read(bytes)
        };
        let mut values = parts.iter().map(|part| value(part));
        if let Some(first) = values.next() {
            target.copy_from_slice(&write(values.fold(first, &join)));
        }
    }
}

trait Float: Copy + std::ops::Add<Output = Self> + PartialOrd {
    fn is_nan(self) -> bool;
}

impl Float for f32 {
    fn is_nan(self) -> bool {
        f32::is_nan(self)
    }
}

impl Float for f64 {
    fn is_nan(self) -> bool {
        f64::is_nan(self)
    }
}

/// NaN wins over numbers in maximum and minimum, as in HLO.
fn join_floats<V: Float>(function: Combine) -> impl Fn(V, V) -> V {
    move |a, b| match function {
        Combine::Add => a + b,
        Combine::Max => {
            if a.is_nan() || a >= b {
                a
            } else {
                b
            }
        }
        Combine::Min => {
            if a.is_nan() || a <= b {
                a
            } else {
                b
            }
        }
    }
}

fn floats<V: Float, const N: usize>(
    function: Combine,
    parts: &[&[u8]],
    out: &mut [u8],
    read: impl Fn([u8; N]) -> V,
    write: impl Fn(V) -> [u8; N],
) {
    fold(parts, out, read, write, join_floats::<V>(function));
}

fn narrow(
    function: Combine,
    parts: &[&[u8]],
    out: &mut [u8],
    read: impl Fn([u8; 2]) -> f32,
    write: impl Fn(f32) -> [u8; 2],
) {
    fold(parts, out, read, write, join_floats::<f32>(function));
}

trait Integer: Copy + Ord {
    fn wrapping_sum(self, other: Self) -> Self;
}

macro_rules! integer {
    ($($ty:ty),*) => { $(impl Integer for $ty {
        fn wrapping_sum(self, other: Self) -> Self { self.wrapping_add(other) }
    })* };
}

integer!(u8, i8, u16, i16, u32, i32, u64, i64);

fn integers<V: Integer, const N: usize>(
    function: Combine,
    parts: &[&[u8]],
    out: &mut [u8],
    read: impl Fn([u8; N]) -> V,
    write: impl Fn(V) -> [u8; N],
) {
    let join = move |a: V, b: V| match function {
        Combine::Add => a.wrapping_sum(b),
        Combine::Max => a.max(b),
        Combine::Min => a.min(b),
    };
    fold(parts, out, read, write, join);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_ne_bytes()).collect()
    }

    #[track_caller]
    fn check(kind: Kind, sizes: &[usize], parts: &[&[f32]], expect: &[&[f32]]) {
        let members: Vec<usize> = (0..parts.len()).collect();
        let groups = vec![members.clone()];
        let of = Exchange { kind, element: PrimitiveType::F32, sizes: sizes.to_vec(), groups };
        let parts: Vec<Vec<u8>> = parts.iter().map(|part| bytes(part)).collect();
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        for (position, expect) in expect.iter().enumerate() {
            let expect = bytes(expect);
            let mut out = vec![0xff; expect.len()];
            result(&of, &members, &parts, position, &mut out).unwrap();
            assert_eq!(out, expect, "member {position}");
            assert!(result(&of, &members, &parts, position, &mut vec![0; expect.len() + 4]).is_err());
        }
    }

    #[test]
    fn members_get_their_results() {
        let parts: [&[f32]; 2] = [&[1.0, 2.0, 3.0, 4.0], &[10.0, 20.0, 30.0, 40.0]];
        let sum: &[f32] = &[11.0, 22.0, 33.0, 44.0];
        check(Kind::AllReduce(Combine::Add), &[2, 2], &parts, &[sum, sum]);
        check(Kind::AllReduce(Combine::Max), &[4], &parts, &[parts[1], parts[1]]);
        check(Kind::AllReduce(Combine::Min), &[4], &parts, &[parts[0], parts[0]]);
        let outer: &[f32] = &[1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0];
        check(Kind::AllGather { dim: 0 }, &[2, 2], &parts, &[outer, outer]);
        let inner: &[f32] = &[1.0, 2.0, 10.0, 20.0, 3.0, 4.0, 30.0, 40.0];
        check(Kind::AllGather { dim: 1 }, &[2, 2], &parts, &[inner, inner]);
        let scatter = |dim| Kind::ReduceScatter { combine: Combine::Add, dim };
        check(scatter(0), &[2, 2], &parts, &[&[11.0, 22.0], &[33.0, 44.0]]);
        check(scatter(1), &[2, 2], &parts, &[&[11.0, 33.0], &[22.0, 44.0]]);
        let all_to_all: [&[f32]; 2] = [&[1.0, 2.0, 10.0, 20.0], &[3.0, 4.0, 30.0, 40.0]];
        check(Kind::AllToAll { dim: 0 }, &[2, 2], &parts, &all_to_all);
        check(
            Kind::AllToAll { dim: 1 },
            &[2, 2],
            &parts,
            &[&[1.0, 10.0, 3.0, 30.0], &[2.0, 20.0, 4.0, 40.0]],
        );
        let swap = Kind::Permute { pairs: vec![(0, 1), (1, 0)] };
        check(swap, &[4], &parts, &[parts[1], parts[0]]);
        check(Kind::Permute { pairs: vec![(0, 1)] }, &[4], &parts, &[&[0.0; 4], parts[0]]);
    }

    #[test]
    fn sums_go_in_the_order_of_the_group_and_narrow_ones_round_once() {
        let of = |element| Exchange {
            kind: Kind::AllReduce(Combine::Add),
            element,
            sizes: vec![1],
            groups: vec![vec![0, 1, 2]],
        };
        let parts = [1e8_f32, -1e8, 0.5].map(|v| v.to_ne_bytes());
        let parts: Vec<&[u8]> = parts.iter().map(|p| &p[..]).collect();
        let mut out = [0; 4];
        result(&of(PrimitiveType::F32), &[0, 1, 2], &parts, 0, &mut out).unwrap();
        assert_eq!(f32::from_ne_bytes(out), 0.5);
        // 256 + 1 + 1: each sum rounded to bfloat16 would stay 256.
        let parts = [256.0_f32, 1.0, 1.0].map(|v| half::bf16::from_f32(v).to_ne_bytes());
        let parts: Vec<&[u8]> = parts.iter().map(|p| &p[..]).collect();
        let mut out = [0; 2];
        result(&of(PrimitiveType::Bf16), &[0, 1, 2], &parts, 0, &mut out).unwrap();
        assert_eq!(half::bf16::from_ne_bytes(out).to_f32(), 258.0);
        assert!(result(&of(PrimitiveType::C64), &[0, 1, 2], &parts, 0, &mut out).is_err());
    }
}
