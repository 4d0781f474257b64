//! Members of a run: what they exchange, what they agree on, and that nobody waits for ever.

use std::ops::Range;

use flatleaf::{Alone, Communicator, Error, Layout, Result, Threads, elastic_average};

const SIZES: [usize; 5] = [1, 2, 3, 4, 7];

/// A vector that differs from member to member, with sums that depend on their order.
fn vector(rank: usize, len: usize) -> Vec<f32> {
    let element =
        |index: usize| ((rank * 31 + index * 7) % 101) as f32 * 1.1e-3_f32.powi(rank as i32 % 3);
    (0..len).map(element).collect()
}

/// The plain loop: members in order, in `f64`, rounded once.
fn sum_of(size: usize, len: usize) -> Vec<f32> {
    let sum = |index| {
        let mut sum = 0.0;
        for rank in 0..size {
            sum += f64::from(vector(rank, len)[index]);
        }
        sum as f32
    };
    (0..len).map(sum).collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_sum_is_the_sum_in_the_order_of_the_ranks() {
    for size in SIZES {
        for len in [0, 1, 5, 6, 1000] {
            let sums = Threads::run(size, |member| {
                let mut x = vector(member.rank(), len);
                member.sum(&mut x).map(|()| x)
            });
            for sum in sums {
                assert_eq!(bits(&sum.unwrap()), bits(&sum_of(size, len)));
            }
        }
    }
}

#[test]
fn everybody_gets_the_sum_of_its_own_range() {
    let ranges = [4..9, 0..0, 0..3];
    let sums = Threads::run(3, |member| {
        let mut x = vector(member.rank(), 10);
        member.reduce_scatter(&mut x, &ranges).unwrap();
        x[ranges[member.rank()].clone()].to_vec()
    });
    for (sum, range) in sums.iter().zip(ranges) {
        assert_eq!(bits(sum), bits(&sum_of(3, 10)[range]));
    }
}

#[test]
fn what_is_gathered_keeps_its_bits_and_what_is_in_no_range_stays() {
    let odd = [-0.0, f32::from_bits(0x7fc0_1234), 1e-45];
    let all = Threads::run(2, |member| {
        let mut x = [9.0, 9.0, 9.0, 8.0];
        let own = if member.rank() == 0 { 0..2 } else { 2..3 };
        x[own.clone()].copy_from_slice(&odd[own]);
        member.all_gather(&mut x, &[0..2, 2..3]).unwrap();
        bits(&x)
    });
    let expected = [odd[0], odd[1], odd[2], 8.0];
    assert!(all.iter().all(|x| *x == bits(&expected)));
}

#[test]
fn numbers_are_summed_in_the_order_of_the_ranks() {
    let sums = Threads::run(3, |member| {
        let mut x = [[1e16, 1.0, -1e16][member.rank()]];
        member.all_reduce(&mut x).map(|()| x[0])
    });
    assert!(
        sums.into_iter()
            .all(|sum| sum.unwrap() == (1e16 + 1.0) - 1e16)
    );
}

#[test]
fn a_mean_is_weighted_and_a_member_without_weight_is_left_out() {
    let cases: [(&[(f64, f32)], f32); 4] = [
        (&[(1.0, 2.0), (1.0, 4.0)], 3.0),
        (&[(3.0, 1.0), (1.0, 5.0)], 2.0),
        (&[(0.0, f32::NAN), (2.0, 7.0)], 7.0),
        (&[(0.5, 1.0), (0.25, 4.0), (0.25, 8.0)], 3.5),
    ];
    for (members, expected) in cases {
        let means = Threads::run(members.len(), |member| {
            let (weight, x) = members[member.rank()];
            let mut x = [x];
            member.mean(&mut x, weight).map(|()| x[0])
        });
        assert!(
            means.into_iter().all(|mean| mean.unwrap() == expected),
            "{members:?}"
        );
    }
}

#[test]
fn a_weight_that_is_none_is_an_error_on_all_and_nothing_is_written() {
    for weights in [
        [1.0, -1.0],
        [1.0, f64::NAN],
        [1.0, f64::INFINITY],
        [0.0, 0.0],
    ] {
        let answers = Threads::run(2, |member| {
            let mut x = [3.0];
            let error = member.mean(&mut x, weights[member.rank()]).unwrap_err();
            // The next exchange works.
            member.sum(&mut x).unwrap();
            (error, x)
        });
        assert!(answers[1].0.is_argument(), "{weights:?}");
        assert!(answers[0].0.is_member() || weights == [0.0, 0.0]);
        assert!(answers.iter().all(|answer| answer.1 == [6.0]));
    }
}

#[test]
fn a_vector_comes_from_any_member() {
    for root in 0..3 {
        let all = Threads::run(3, |member| {
            let mut x = vector(member.rank(), 5);
            member.broadcast(&mut x, root).map(|()| x)
        });
        assert!(all.into_iter().all(|x| x.unwrap() == vector(root, 5)));
    }
}

#[test]
fn members_agree_on_the_first_error() {
    let message = "ä".repeat(5000);
    let fail = |rank: usize| -> Result<usize> {
        match rank {
            1 => Err(Error::custom(&message)),
            2 => Err(Error::custom("later")),
            rank => Ok(rank),
        }
    };
    let answers = Threads::run(4, |member| {
        let answer = member.agree(fail(member.rank()));
        assert_eq!(member.agree(Ok(member.rank())).unwrap(), member.rank());
        answer
    });
    for rank in [0, 3] {
        let error = answers[rank].as_ref().unwrap_err();
        assert!(
            error.is_member() && error.to_string().contains("member 1: "),
            "{error}"
        );
        assert!(error.to_string().contains("ää"));
    }
    assert!(answers[1].as_ref().unwrap_err().is_custom());
    assert!(
        answers[2]
            .as_ref()
            .unwrap_err()
            .to_string()
            .contains("later")
    );
}

#[test]
fn another_layout_is_an_error_on_all_members_that_names_both() {
    let layout = |rank: usize| Layout::of(&vec![0.0_f32; if rank == 2 { 4 } else { 3 }]).unwrap();
    let answers = Threads::run(3, |member| member.check_layout(&layout(member.rank())));
    for answer in answers {
        let error = answer.unwrap_err();
        assert!(error.is_other_layout());
        let text = error.to_string();
        assert!(text.contains("member 2"), "{text}");
        for rank in [0, 2] {
            assert!(
                text.contains(&format!("{:016x}", layout(rank).fingerprint())),
                "{text}"
            );
        }
    }
    let same = Threads::run(3, |member| member.check_layout(&layout(0)));
    assert!(same.into_iter().all(|answer| answer.is_ok()));
}

#[test]
fn a_member_that_ends_or_does_something_else_is_an_error_and_no_hang() {
    let answers = Threads::run(3, |member| match member.rank() {
        2 => Ok(()),
        _ => member.sum(&mut [1.0]),
    });
    assert!(
        answers[..2]
            .iter()
            .all(|answer| answer.as_ref().unwrap_err().is_member())
    );

    let answers = Threads::run(2, |member| match member.rank() {
        0 => member.all_reduce(&mut [1.0]),
        _ => member.all_reduce(&mut [1.0, 2.0]),
    });
    for answer in answers {
        let error = answer.unwrap_err();
        assert!(error.is_member(), "{error}");
        assert!(
            error.to_string().contains("`all_reduce` of 2 numbers"),
            "{error}"
        );
    }
}

#[test]
fn a_panic_of_a_member_ends_the_run_with_it() {
    let run = std::panic::catch_unwind(|| {
        Threads::run(3, |member| {
            assert!(member.rank() != 1, "member 1 has no data");
            member.sum(&mut [1.0]).unwrap_err().is_member()
        })
    });
    let panic = run.unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"member 1 has no data"));
}

#[test]
fn a_trait_object_is_a_communicator_like_any_other() {
    let sums = Threads::run(2, |member| {
        let communicator: &mut dyn Communicator = member;
        let mut x = [1.0];
        communicator.mean(&mut x, 1.0).unwrap();
        x[0]
    });
    assert_eq!(sums, [1.0, 1.0]);
}

#[test]
fn alone_everything_stays_as_it_is() {
    let odd = [-0.0, f32::from_bits(0x7fc0_1234), 1e-45];
    let mut x = odd;
    Alone.sum(&mut x).unwrap();
    Alone.broadcast(&mut x, 0).unwrap();
    assert_eq!(bits(&x), bits(&odd));
    assert!(
        Alone
            .agree::<()>(Err(Error::custom("no")))
            .unwrap_err()
            .is_custom()
    );
}

/// Shards of leaves of these lengths.
fn shards(lengths: &[usize], count: usize) -> Vec<Range<usize>> {
    let leaves: Vec<Vec<f32>> = lengths.iter().map(|len| vec![0.0; *len]).collect();
    Layout::of(&leaves).unwrap().shards(count)
}

#[test]
fn shards_end_at_leaves_and_at_pieces_of_large_ones() {
    const PIECE: usize = 1 << 15;
    assert_eq!(shards(&[3, 4, 2], 2), [0..3, 3..9]);
    assert_eq!(shards(&[], 3), [0..0, 0..0, 0..0]);
    assert_eq!(shards(&[0, 0], 2), [0..0, 0..0]);
    assert_eq!(shards(&[2], 3), [0..0, 0..0, 0..2]);
    assert_eq!(
        shards(&[3 * PIECE], 3),
        [0..PIECE, PIECE..2 * PIECE, 2 * PIECE..3 * PIECE]
    );
    // Pieces are counted from the start of their leaf.
    assert_eq!(
        shards(&[10, 2 * PIECE], 2),
        [0..PIECE + 10, PIECE + 10..2 * PIECE + 10]
    );
}

#[test]
fn shards_cover_the_vector_and_are_nearly_even() {
    const PIECE: usize = 1 << 15;
    for lengths in [&[1, 100_000, 7, 0, 65_536, 3][..], &[5; 200], &[1_000_000]] {
        let len: usize = lengths.iter().sum();
        let unit = lengths.iter().copied().max().unwrap().min(PIECE);
        for count in [1, 2, 3, 4, 7, 300] {
            let shards = shards(lengths, count);
            assert_eq!(shards.len(), count);
            assert_eq!((shards[0].start, shards[count - 1].end), (0, len));
            assert!(shards.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(
                shards
                    .iter()
                    .all(|shard| shard.len() <= len / count + 1 + unit)
            );
        }
    }
}

/// By hand: with a rate of 0.5 and two members each moves by a quarter of its way to the centre, and
/// the centre by half of its way to the mean.
#[test]
fn members_and_their_centre_are_drawn_to_each_other() {
    let ends = Threads::run(2, |member| {
        let mut x = [[0.0, 1.0], [4.0, 1.0]][member.rank()];
        let mut centre = [1.0, 1.0];
        for _ in 0..2 {
            elastic_average(member, &mut x, &mut centre, 0.5).unwrap();
        }
        (x, centre)
    });
    // First 0.25, 3.25 and 1.5; then 0.25 + 0.25·1.25, 3.25 − 0.25·1.75 and 1.5 + 0.5·0.25.
    assert_eq!(ends[0], ([0.5625, 1.0], [1.625, 1.0]));
    assert_eq!(ends[1], ([2.8125, 1.0], [1.625, 1.0]));
}

#[test]
fn a_centre_that_does_not_fit_is_an_error_on_all_and_nothing_is_written() {
    for (lengths, rates) in [
        ([2, 3], [0.5, 0.5]),
        ([2, 2], [0.5, 1.5]),
        ([2, 2], [0.5, f64::NAN]),
    ] {
        let answers = Threads::run(2, |member| {
            let mut x = [1.0, 2.0];
            let mut centre = vec![0.0; lengths[member.rank()]];
            let rate = rates[member.rank()];
            let error = elastic_average(member, &mut x, &mut centre, rate).unwrap_err();
            assert!(x == [1.0, 2.0] && centre.iter().all(|x| *x == 0.0));
            error
        });
        assert!(answers[0].is_member(), "{:?}", answers[0]);
        assert!(answers[1].is_length() || answers[1].is_argument());
    }
}

#[test]
fn shards_of_whole_leaves_end_where_leaves_start() {
    let lengths = [100_000, 1, 70_000, 0, 30_000];
    let layout = Layout::of(&lengths.map(|len| vec![0.0_f32; len]).to_vec()).unwrap();
    let starts: Vec<usize> = layout
        .leaves()
        .iter()
        .map(|leaf| leaf.range().start)
        .collect();
    for count in 1..=7 {
        let shards = layout.shards_of_whole_leaves(count);
        assert_eq!((shards.len(), shards[0].start), (count, 0));
        assert_eq!(shards[count - 1].end, layout.len());
        assert!(shards.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert!(
            shards
                .iter()
                .all(|shard| starts.contains(&shard.start) || shard.is_empty())
        );
    }
    assert_eq!(
        layout.shards_of_whole_leaves(2),
        [0..100_000, 100_000..200_001]
    );
}
