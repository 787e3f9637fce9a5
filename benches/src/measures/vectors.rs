//! Vector sets: searches a second and their recall by the effort (EF), additions a second, and bytes a vector.
//!
//! The vectors have 256 components and are scattered around centres, as embeddings are. Recall is the share of the ten nearest
//! that a search finds; these are found here by comparing the query with all vectors. So servers can be compared at the
//! same recall.

use std::time::Instant;

use fastrand::Rng;

use crate::client::command;
use crate::measures::memory::settled_used_memory;
use crate::report::{Table, Target, Unit};
use crate::server::{Kind, Program};
use crate::{Bench, Result};

const VECTORS: u64 = 100_000;
const DIM: usize = 256;
const CENTRES: usize = 1000;
/// Searches that are timed, and those whose recall is known.
const SEARCHES: usize = 4000;
const QUERIES: usize = 200;
const COUNT: usize = 10;
const EFFORTS: [&str; 4] = ["50", "100", "200", "400"];

/// The figures of one server.
struct Outcome {
    added_per_second: f64,
    bytes_each: f64,
    /// For each effort.
    searches_per_second: Vec<f64>,
    recall_percent: Vec<f64>,
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Table>> {
    let count = bench.amount(VECTORS, VECTORS / 50) as usize;
    let (vectors, queries) = scattered(count);
    let nearest: Vec<Vec<usize>> = queries.iter().map(|query| nearest_of(query, &vectors)).collect();
    let has_them = |program: &Program| matches!(program.kind, Kind::Redis8 | Kind::Dormouse);
    let outcomes = bench
        .of_each(|program| has_them(program).then(|| outcome(program, &vectors, &queries, &nearest)).transpose())?;
    let outcomes: Vec<Option<Outcome>> = outcomes.into_iter().map(Option::flatten).collect();
    let values = |of: &dyn Fn(&Outcome) -> f64| outcomes.iter().map(|outcome| outcome.as_ref().map(of)).collect();
    let mut searches = Table::new("Searches for the ten nearest vectors (VSIM) on one core", &bench.programs);
    for (at, effort) in EFFORTS.iter().enumerate() {
        let per_second = values(&|outcome| outcome.searches_per_second[at]);
        searches.row(format!("a second, EF {effort}"), Unit::PerSecond, per_second, Some(Target::TimesBest(1.2)));
        searches.row(
            format!("recall, EF {effort}"),
            Unit::Percent,
            values(&|outcome| outcome.recall_percent[at]),
            None,
        );
    }
    let mut rest = Table::new("Vectors of 256 components", &bench.programs);
    rest.row("added a second (VADD)", Unit::PerSecond, values(&|outcome| outcome.added_per_second), None);
    let bytes = values(&|outcome| outcome.bytes_each);
    rest.row("bytes each, by used_memory", Unit::Bytes, bytes, Some(Target::OfBest(0.9)));
    Ok(vec![searches, rest])
}

fn outcome(program: &Program, vectors: &[Vec<f32>], queries: &[Vec<f32>], nearest: &[Vec<usize>]) -> Result<Outcome> {
    let server = program.start()?;
    let mut client = server.client()?;
    let before = settled_used_memory(&mut client)?;
    let began = Instant::now();
    client.fill(vectors.len() as u64, |at, request| {
        let name = at.to_string();
        command(request, &[b"VADD", b"vectors", b"FP32", &blob(&vectors[at as usize]), name.as_bytes()]);
    })?;
    let added_per_second = vectors.len() as f64 / began.elapsed().as_secs_f64();
    let bytes = settled_used_memory(&mut client)?.saturating_sub(before);
    let (mut searches_per_second, mut recall_percent) = (Vec::new(), Vec::new());
    for effort in EFFORTS {
        let search = |at: usize, request: &mut Vec<u8>| {
            let query = blob(&queries[at % queries.len()]);
            command(request, &[b"VSIM", b"vectors", b"FP32", &query, b"COUNT", b"10", b"EF", effort.as_bytes()]);
        };
        let found = client.texts(queries.len(), search)?;
        let hits = found.iter().zip(nearest).map(|(found, nearest)| {
            found.lines().filter(|name| name.parse().is_ok_and(|at| nearest.contains(&at))).count()
        });
        recall_percent.push(100.0 * hits.sum::<usize>() as f64 / (COUNT * queries.len()) as f64);
        let began = Instant::now();
        client.texts(SEARCHES, search)?;
        searches_per_second.push(SEARCHES as f64 / began.elapsed().as_secs_f64());
    }
    Ok(Outcome {
        added_per_second,
        bytes_each: bytes as f64 / vectors.len() as f64,
        searches_per_second,
        recall_percent,
    })
}

/// Vectors and queries around the same centres, always the same.
fn scattered(count: usize) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let mut random = Rng::with_seed(1);
    // Nearly normal, with a deviation of about a half.
    let mut number = || (0..4).map(|_| random.f32()).sum::<f32>() - 2.0;
    let centres: Vec<Vec<f32>> = (0..CENTRES).map(|_| (0..DIM).map(|_| number()).collect()).collect();
    let mut vectors: Vec<Vec<f32>> = (0..count + QUERIES)
        .map(|at| centres[at * 7919 % CENTRES].iter().map(|x| x + 0.7 * number()).collect())
        .collect();
    let queries = vectors.split_off(count);
    (vectors, queries)
}

/// The vectors with the greatest cosine.
fn nearest_of(query: &[f32], vectors: &[Vec<f32>]) -> Vec<usize> {
    let dot = |one: &[f32], other: &[f32]| one.iter().zip(other).map(|(x, y)| x * y).sum::<f32>();
    let mut cosines: Vec<(f32, usize)> =
        vectors.iter().map(|vector| dot(query, vector) / dot(vector, vector).sqrt()).zip(0..).collect();
    cosines.sort_unstable_by(|one, other| other.0.total_cmp(&one.0));
    cosines.iter().take(COUNT).map(|(_, at)| *at).collect()
}

fn blob(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_are_found() {
        let vectors: Vec<Vec<f32>> = (0..20).map(|at| vec![1.0, at as f32]).collect();
        assert_eq!(nearest_of(&[1.0, 0.1], &vectors)[..2], [0, 1]);
        assert_eq!(nearest_of(&[0.0, 1.0], &vectors)[..3], [19, 18, 17]);
    }
}
