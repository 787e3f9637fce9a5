use std::collections::BTreeMap;

use fastrand::Rng;

use super::*;

const SEED: u64 = 7;

fn shape(dim: u32, quantization: Quantization, links: u32) -> VectorShape {
    VectorShape { dim, quantization, links }
}

fn vector(random: &mut Rng, dim: u32) -> Vec<f32> {
    (0..dim).map(|_| random.f32() - 0.5).collect()
}

/// Vectors around some centres.
fn clustered(random: &mut Rng, count: usize, dim: u32, clusters: usize) -> Vec<Vec<f32>> {
    let centres: Vec<Vec<f32>> = (0..clusters).map(|_| vector(random, dim)).collect();
    let near = |random: &mut Rng| {
        let centre = &centres[random.usize(..clusters)];
        centre.iter().map(|x| x + 0.3 * (random.f32() - 0.5)).collect()
    };
    (0..count).map(|_| near(random)).collect()
}

fn filled(shape: VectorShape, vectors: &[Vec<f32>], effort: usize) -> VectorSet {
    let mut set = VectorSet::with_shape(shape, None);
    for (at, vector) in vectors.iter().enumerate() {
        assert!(set.add(format!("element {at}").as_bytes(), vector, None, effort, SEED));
    }
    set
}

fn checked(set: &VectorSet) {
    assert_eq!(set.counted_bytes(), set.heap_bytes());
}

/// The share of the nearest ten that searches find.
fn recall(set: &VectorSet, queries: &[Vec<f32>], effort: usize) -> f64 {
    let found: usize = queries
        .iter()
        .map(|query| {
            let exact = set.nearest_of_all(query, 10, &mut |_| true);
            let farthest = exact.last().expect("the set is not empty").distance;
            set.nearest(query, effort).iter().take(10).filter(|found| found.distance <= farthest).count()
        })
        .sum();
    found as f64 / (10 * queries.len()) as f64
}

#[test]
fn searches_find_nearly_all_of_the_nearest() {
    let mut random = Rng::with_seed(3);
    for (quantization, clusters) in
        [(Quantization::Q8, 1), (Quantization::Q8, 40), (Quantization::None, 40), (Quantization::Binary, 5)]
    {
        let vectors = clustered(&mut random, 2500, 32, clusters);
        let set = filled(shape(32, quantization, 16), &vectors[..2400], 60);
        checked(&set);
        let recall = recall(&set, &vectors[2400..], 200);
        assert!(recall >= 0.95, "{quantization:?} with {clusters} clusters: {recall}");
    }
}

/// As when a set is used as a window over what is new.
#[test]
fn searches_do_so_after_most_nodes_were_replaced() {
    let mut random = Rng::with_seed(4);
    let vectors = clustered(&mut random, 3100, 16, 30);
    let mut set = filled(shape(16, Quantization::Q8, 8), &vectors[..1000], 50);
    for (at, vector) in vectors.iter().enumerate().take(3000).skip(1000) {
        assert!(set.remove(format!("element {}", at - 1000).as_bytes()));
        assert!(set.add(format!("element {at}").as_bytes(), vector, None, 50, SEED));
        let moved = format!("element {}", at - random.usize(..1000));
        assert!(!set.add(moved.as_bytes(), &clustered(&mut random, 1, 16, 1)[0], None, 50, SEED));
    }
    checked(&set);
    let recall = recall(&set, &vectors[3000..], 200);
    assert!(recall >= 0.95, "{recall}");
}

#[test]
fn an_exact_search_finds_the_nearest_and_gives_their_distances() {
    let mut random = Rng::with_seed(5);
    let vectors = clustered(&mut random, 300, 20, 10);
    let set = filled(shape(20, Quantization::None, 16), &vectors, 30);
    let query = vector(&mut random, 20);
    let length = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let cosine = |x: &[f32]| {
        x.iter().zip(&query).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>() / length(x) / length(&query)
    };
    let mut exact: Vec<(f64, usize)> = vectors.iter().map(|x| 1.0 - cosine(x)).zip(0..).collect();
    exact.sort_by(|one, other| one.0.total_cmp(&other.0));
    let found = set.nearest_of_all(&query, 20, &mut |_| true);
    for (found, (distance, at)) in found.iter().zip(&exact) {
        assert_eq!(set.node(found.id).name(), format!("element {at}").as_bytes());
        assert!((f64::from(found.distance) - distance).abs() < 1e-5);
    }
    let even = set.nearest_of_all(&query, 20, &mut |id| id % 2 == 0);
    assert!(even.len() == 20 && even.iter().all(|found| found.id % 2 == 0));
}

#[test]
fn filtered_searches_find_what_passes() {
    let mut random = Rng::with_seed(6);
    let vectors = clustered(&mut random, 1200, 16, 20);
    let set = filled(shape(16, Quantization::Q8, 16), &vectors, 50);
    for every in [2, 20] {
        let query = vector(&mut random, 16);
        let exact = set.nearest_of_all(&query, 10, &mut |id| id % every == 0);
        let found = set.nearest_where(&query, 100, 1000, &mut |id| id % every == 0);
        assert!(found.iter().all(|found| found.id % every == 0));
        assert_eq!(
            found[..10].iter().map(|found| found.id).collect::<Vec<_>>(),
            exact.iter().map(|found| found.id).collect::<Vec<_>>()
        );
    }
    let mut asked = 0;
    let none = set.nearest_where(&vectors[0], 10, 3, &mut |_| {
        asked += 1;
        false
    });
    assert!(none.is_empty() && asked <= 1 + 3 * 32, "{asked} were asked");
}

/// The names of a set with their norms and attributes.
type Model = BTreeMap<Vec<u8>, (Vec<f32>, Vec<u8>)>;

fn compare(set: &VectorSet, model: &Model, random: &mut Rng) {
    checked(set);
    assert_eq!(set.len(), model.len());
    assert_eq!(set.attribute_count(), model.values().filter(|(_, attributes)| !attributes.is_empty()).count());
    let from = format!("{:03}", random.u32(..300)).into_bytes();
    let names: Vec<&[u8]> = set.names_from(&from).map(|id| set.node(id).name()).collect();
    assert!(names.iter().copied().eq(model.range(from..).map(|(name, _)| &name[..])));
    for (name, (given, attributes)) in model {
        let node = set.node(set.find(name).expect("the model has it"));
        assert_eq!(node.attributes(), attributes);
        // Of the range, which is no more than the norm, there are 127 steps.
        let step = node.norm() / 127.0;
        assert!(node.components().iter().zip(given).all(|(x, y)| (x - y).abs() <= step));
    }
}

#[test]
fn a_set_is_as_the_model_says() {
    let mut random = Rng::with_seed(8);
    for links in [4, 16] {
        let mut set = VectorSet::with_shape(shape(4, Quantization::Q8, links), None);
        let mut model = Model::new();
        for round in 0..3000 {
            let name = format!("{:03}", random.u32(..300)).into_bytes();
            let exists = model.contains_key(&name);
            // It grows, and shrinks to nothing.
            let removes = if round % 1000 < 500 { 2 } else { 7 };
            match random.u32(..10) {
                kind if kind < removes => assert_eq!(set.remove(&name), model.remove(&name).is_some()),
                9 => {
                    let attributes = vec![b'a'; random.usize(..50)];
                    assert_eq!(set.set_attributes(&name, &attributes), exists);
                    model.entry(name).and_modify(|entry| entry.1 = attributes);
                }
                kind => {
                    let given = vector(&mut random, 4);
                    let attributes = (kind % 2 == 0).then(|| vec![b'b'; random.usize(..3)]);
                    assert_eq!(set.add(&name, &given, attributes.as_deref(), 20, SEED), !exists);
                    let entry = model.entry(name).or_default();
                    entry.0 = given;
                    attributes.into_iter().for_each(|attributes| entry.1 = attributes);
                }
            }
            if round % 100 == 99 {
                compare(&set, &model, &mut random);
            }
        }
        for name in model.keys() {
            assert!(set.remove(name));
        }
        checked(&set);
        assert!(set.is_empty());
        assert!(set.add(b"again", &[1.0; 4], None, 20, SEED));
        checked(&set);
    }
}

#[test]
fn the_same_commands_make_the_same_graph() {
    let made = |seed: u64| {
        let mut random = Rng::with_seed(9);
        let mut set = filled(shape(8, Quantization::Q8, 4), &clustered(&mut random, 300, 8, 9), 20);
        for _ in 0..100 {
            set.remove(format!("element {}", random.u32(..300)).as_bytes());
            set.add(format!("element {}", random.u32(..300)).as_bytes(), &vector(&mut random, 8), None, 20, seed);
        }
        set
    };
    assert_eq!(format!("{:?}", made(SEED)), format!("{:?}", made(SEED)));
    assert_ne!(format!("{:?}", made(SEED)), format!("{:?}", made(SEED + 1)), "layers depend on the seed");
}

#[test]
fn layers_are_as_many_as_expected() {
    let mut random = Rng::with_seed(10);
    let set = filled(shape(2, Quantization::Binary, 4), &clustered(&mut random, 4000, 2, 9), 4);
    let mut levels = [0usize; LEVEL_MAX + 1];
    (0..4000).for_each(|id| levels[set.node(id).level()] += 1);
    assert!((900..1100).contains(&levels[1..].iter().sum::<usize>()), "{levels:?}");
    assert!((200..300).contains(&levels[2..].iter().sum::<usize>()), "{levels:?}");
    assert!(set.level_max() >= 3);
}

#[test]
fn zeros_and_numbers_out_of_range_do_no_harm() {
    for quantization in [Quantization::None, Quantization::Q8, Quantization::Binary] {
        let mut set = VectorSet::with_shape(shape(3, quantization, 4), None);
        let vectors = [
            [0.0; 3],
            [f32::INFINITY, 1.0, 1.0],
            [f32::NAN, 1.0, 1.0],
            [f32::MAX, f32::MAX, f32::MAX],
            [1e-30, 1e-30, 1e-30],
            [1.0, 2.0, 3.0],
        ];
        for (at, vector) in vectors.iter().enumerate() {
            set.add(&[at as u8], vector, None, 10, SEED);
        }
        for vector in vectors {
            let found = set.nearest(&vector, 10);
            assert_eq!(found.len(), 6);
            assert!(found.iter().all(|found| (-0.1..=2.1).contains(&found.distance)), "{found:?}");
        }
        checked(&set);
        assert_eq!(format!("{:?}", loaded(&set).unwrap()), format!("{set:?}"));
    }
}

fn stored(node: NodeView<'_>) -> (Vec<u8>, Vec<Vec<u32>>) {
    let mut vector = Vec::new();
    node.vector().append_to(&mut vector);
    (vector, (0..=node.level()).map(|layer| node.links(layer).to_vec()).collect())
}

fn loaded(set: &VectorSet) -> Result<VectorSet, crate::Malformed> {
    loaded_with(set, |_, _| {})
}

/// Loads a set whose nodes are changed before.
fn loaded_with(set: &VectorSet, change: impl Fn(u32, &mut Vec<Vec<u32>>)) -> Result<VectorSet, crate::Malformed> {
    let mut loader = VectorLoader::new(set.head(), 99)?;
    for id in 0..set.len() as u32 {
        let node = set.node(id);
        let (vector, mut links) = stored(node);
        change(id, &mut links);
        loader.push(StoredNode {
            name: node.name(),
            attributes: node.attributes(),
            norm: node.norm(),
            range: node.vector().range(),
            vector: &vector,
            links: &links,
        })?;
    }
    loader.finish()
}

#[test]
fn a_set_is_loaded_as_it_was_stored() {
    let mut random = Rng::with_seed(11);
    for quantization in [Quantization::None, Quantization::Q8, Quantization::Binary] {
        let mut set = filled(shape(70, quantization, 4), &clustered(&mut random, 400, 70, 9), 10);
        set.set_attributes(b"element 7", b"{}");
        let again = loaded(&set).unwrap();
        checked(&again);
        assert_eq!(format!("{again:?}"), format!("{set:?}"));
        assert!(
            loaded_with(&set, |id, links| if id == 5 {
                links[0].swap(0, 1)
            })
            .is_ok()
        );
        for damage in [
            (&|links: &mut Vec<Vec<u32>>| links[0].truncate(1)) as &dyn Fn(&mut Vec<Vec<u32>>),
            &|links| links[0][0] = 400,
            &|links| links[0][0] = u32::MAX,
            &|links| links[0][0] = 5,
            &|links| links[0][0] = links[0][1],
            &|links| links[0][0] = (0..400).find(|id| *id != 5 && !links[0].contains(id)).unwrap(),
            &|links| links[0].resize(9, 3),
            &|links| links.clear(),
            &|links| links.resize(17, Vec::new()),
            &|links| links.push(vec![1]),
        ] {
            assert!(
                loaded_with(&set, |id, links| if id == 5 {
                    damage(links)
                })
                .is_err()
            );
        }
        let head = set.head();
        for bad in [
            VectorHead { len: 0, ..head.clone() },
            VectorHead { len: 399, ..head.clone() },
            VectorHead { len: 401, ..head.clone() },
            VectorHead { entry: 400, ..head.clone() },
            VectorHead { shape: VectorShape { dim: 0, ..head.shape }, ..head.clone() },
            VectorHead { shape: VectorShape { dim: DIM_MAX + 1, ..head.shape }, ..head.clone() },
            VectorHead { shape: VectorShape { links: 3, ..head.shape }, ..head.clone() },
            VectorHead { shape: VectorShape { links: LINKS_MAX + 1, ..head.shape }, ..head.clone() },
            VectorHead { projection: Some(Projection::new(3)), ..head.clone() },
        ] {
            let mut other = set.clone();
            other.0.len = bad.len.min(400) as u32;
            let is_loaded = VectorLoader::new(bad, 99).is_ok_and(|mut loader| {
                let push = |id| {
                    let (vector, links) = stored(set.node(id));
                    let node = set.node(id);
                    loader.push(StoredNode {
                        name: node.name(),
                        attributes: b"",
                        norm: 1.0,
                        range: 1.0,
                        vector: &vector,
                        links: &links,
                    })
                };
                (0..400).try_for_each(push).is_ok() && loader.finish().is_ok()
            });
            assert!(!is_loaded);
        }
    }
}

#[test]
fn a_set_that_is_dismantled_goes_in_steps() {
    let mut random = Rng::with_seed(12);
    let mut set = filled(shape(8, Quantization::Q8, 4), &clustered(&mut random, 3000, 8, 9), 4);
    let mut steps = 0;
    loop {
        let before = set.heap_bytes();
        let is_done = set.dismantle(100);
        steps += 1;
        if is_done {
            break;
        }
        assert!(set.heap_bytes() < before);
    }
    assert!(steps > 2, "{steps}");
    assert!(set.is_empty());
    checked(&set);
}

fn write(node: NodeView<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{}:{:?};", node.name().escape_ascii(), stored(node)).as_bytes());
}

/// All nodes as a capture writes them.
fn written(set: &VectorSet) -> Vec<u8> {
    let mut out = b"head".to_vec();
    (0..set.len() as u32).for_each(|id| write(set.node(id), &mut out));
    out
}

#[test]
fn a_capture_is_of_one_moment() {
    let mut random = Rng::with_seed(13);
    for _ in 0..10 {
        let mut set = filled(shape(4, Quantization::Q8, 4), &clustered(&mut random, 300, 4, 9), 10);
        let then = written(&set);
        assert_eq!(set.begin_capture(5, b"head".to_vec(), write), 301);
        assert_eq!(set.capture_some(4, 100, &mut Vec::new()), None);
        let (mut out, mut entries) = (Vec::new(), 0);
        loop {
            for _ in 0..20 {
                let name = format!("element {}", random.u32(..320)).into_bytes();
                match random.u32(..3) {
                    0 => drop(set.remove(&name)),
                    1 => drop(set.set_attributes(&name, b"changed")),
                    _ => drop(set.add(&name, &vector(&mut random, 4), None, 10, SEED)),
                }
            }
            let mut piece = Vec::new();
            let captured = set.capture_some(5, 2000, &mut piece).expect("it goes on");
            entries += captured.entries;
            out.extend(piece);
            if captured.is_done {
                break;
            }
        }
        assert_eq!(entries, 301);
        assert_eq!(out.escape_ascii().to_string(), then.escape_ascii().to_string());
        assert_eq!((set.captured_id(), set.aside_bytes()), (None, 0));
        checked(&set);
    }
}

/// A set from elsewhere may have any graph: here all neighbours of a node have few links, and those that they lead to have
/// as many as they can.
#[test]
#[allow(clippy::disallowed_methods, reason = "a duration is only measured")]
fn a_removal_is_bounded_in_any_graph() {
    const M: u32 = 128;
    let (neighbours, hubs) = (2 * M, M / 2 - 2);
    let len = 1 + neighbours + hubs;
    let links_of = |id: u32| -> Vec<u32> {
        match id {
            0 => (1..=neighbours).collect(),
            id if id <= neighbours => std::iter::once(0).chain(1 + neighbours..len).collect(),
            _ => (1..=neighbours).collect(),
        }
    };
    let shape = shape(1, Quantization::Binary, M);
    let head = VectorHead { shape, projection: None, len: len.into(), entry: 0, inserted: len.into(), uid: 0 };
    let mut loader = VectorLoader::new(head, 7).unwrap();
    for id in 0..len {
        let (name, links) = (id.to_string(), [links_of(id)]);
        let vector = u64::from(id % 2).to_le_bytes();
        let node = StoredNode {
            name: name.as_bytes(),
            attributes: b"",
            norm: 1.0,
            range: 0.0,
            vector: &vector,
            links: &links,
        };
        loader.push(node).unwrap();
    }
    let mut set = loader.finish().unwrap();
    let before = std::time::Instant::now();
    assert!(set.remove(b"0"));
    assert!(before.elapsed() < std::time::Duration::from_secs(20), "{:?}", before.elapsed());
    checked(&set);
}
