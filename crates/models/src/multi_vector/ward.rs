//! Ward's hierarchical clustering from a matrix of distances, with the labels that SciPy gives:
//! `fcluster(linkage(distances, "ward"), clusters, "maxclust")`.
//!
//! Ties and rounding decide who is merged with whom, so the steps are those of SciPy: the nearest-neighbour chain
//! (Murtagh, 1983; Müllner, arXiv:1109.2378) with its order of comparisons, and the update of Lance and Williams in
//! its order of operations.

/// Distances between points: symmetric, finite, not negative, `[points, points]`.
pub(super) struct Distances {
    points: usize,
    values: Vec<f64>,
}

impl Distances {
    /// From `distance(i, j)`, which is called for `i < j`.
    pub(super) fn new(points: usize, mut distance: impl FnMut(usize, usize) -> f64) -> Self {
        // What is infinitely far, as a point is from itself here, is never the nearest.
        let mut distances = Self { points, values: vec![f64::INFINITY; points * points] };
        for i in 0..points {
            for j in i + 1..points {
                distances.set(i, j, distance(i, j));
            }
        }
        distances
    }

    /// The cluster of each point, from 0 in the order of SciPy's labels. There are at most `clusters`, and fewer
    /// where merges at equal distances leave no such cut.
    pub(super) fn labels(self, clusters: usize) -> Vec<usize> {
        let points = self.points;
        if clusters >= points {
            return (0..points).collect();
        }
        let merges = tree(self.merges(), points);
        // As many merges as leave `clusters`, and all others at the distance of the last of them.
        let cutoff = merges[points - clusters.max(1) - 1].distance;
        label(&merges, points, cutoff)
    }

    fn get(&self, i: usize, j: usize) -> f64 {
        self.values[i * self.points + j]
    }

    fn set(&mut self, i: usize, j: usize, distance: f64) {
        self.values[i * self.points + j] = distance;
        self.values[j * self.points + i] = distance;
    }

    /// Merges until one cluster is left. A cluster is known by its point of the highest index.
    fn merges(mut self) -> Vec<Merge> {
        let points = self.points;
        let mut sizes = vec![1usize; points];
        let mut chain: Vec<usize> = Vec::with_capacity(points);
        let mut merges = Vec::with_capacity(points.saturating_sub(1));
        while merges.len() + 1 < points {
            let Some(&end) = chain.last() else {
                chain.extend(sizes.iter().position(|size| *size > 0));
                continue;
            };
            let previous = chain.len().checked_sub(2).map(|at| chain[at]);
            let nearest = self.nearest(end, previous);
            if previous != Some(nearest) {
                chain.push(nearest);
                continue;
            }
            chain.truncate(chain.len() - 2);
            let (left, right) = (end.min(nearest), end.max(nearest));
            let distance = self.get(left, right);
            merges.push(Merge { left, right, distance });
            self.merge(left, right, &sizes);
            sizes[right] += std::mem::take(&mut sizes[left]);
        }
        merges
    }

    /// The nearest other cluster: of equally near ones `preferred`, else the first.
    fn nearest(&self, cluster: usize, preferred: Option<usize>) -> usize {
        let row = &self.values[cluster * self.points..][..self.points];
        let mut nearest = preferred.unwrap_or(0);
        let mut least = preferred.map_or(f64::INFINITY, |preferred| row[preferred]);
        for (other, distance) in row.iter().enumerate() {
            if *distance < least {
                (nearest, least) = (other, *distance);
            }
        }
        nearest
    }

    /// Makes `right` the union of both.
    fn merge(&mut self, left: usize, right: usize, sizes: &[usize]) {
        let between = self.get(left, right);
        for (other, size) in sizes.iter().enumerate() {
            if *size > 0 && other != left && other != right {
                let (size, left_size, right_size) = (*size as f64, sizes[left] as f64, sizes[right] as f64);
                let (to_left, to_right) = (self.get(left, other), self.get(right, other));
                let scale = 1.0 / (left_size + right_size + size);
                let squared = (size + left_size) * scale * to_left * to_left
                    + (size + right_size) * scale * to_right * to_right
                    - size * scale * between * between;
                // Below zero by rounding alone: neither is nearer to the other cluster than they are to each other.
                self.set(right, other, squared.max(0.0).sqrt());
            }
            self.set(left, other, f64::INFINITY);
        }
    }
}

/// Two clusters that become one. Leaves of the tree are points; node `points + i` is the i-th merge.
#[derive(Clone, Copy)]
struct Merge {
    left: usize,
    right: usize,
    distance: f64,
}

/// Merges in order of distance, each of two nodes of the tree, the lower one on the left.
fn tree(mut merges: Vec<Merge>, points: usize) -> Vec<Merge> {
    merges.sort_by(|a, b| a.distance.total_cmp(&b.distance));
    let mut parents: Vec<usize> = (0..2 * points).collect();
    for (index, merge) in merges.iter_mut().enumerate() {
        let (a, b) = (root(&mut parents, merge.left), root(&mut parents, merge.right));
        (merge.left, merge.right) = (a.min(b), a.max(b));
        parents[a] = points + index;
        parents[b] = points + index;
    }
    merges
}

/// The node that holds `node` and that nothing holds. Halves the way there.
fn root(parents: &mut [usize], mut node: usize) -> usize {
    while parents[node] != node {
        parents[node] = parents[parents[node]];
        node = parents[node];
    }
    node
}

/// Labels the trees that are left without the merges beyond `cutoff`. Of a node that is cut, subtrees are labelled
/// before points.
fn label(merges: &[Merge], points: usize, cutoff: f64) -> Vec<usize> {
    let mut labels = vec![0; points];
    let mut count = 0;
    // A node, and the label of the cluster that it is inside of.
    let mut stack: Vec<(usize, Option<usize>)> = vec![(2 * points - 2, None)];
    while let Some((node, cluster)) = stack.pop() {
        let is_cluster = node < points || merges[node - points].distance <= cutoff;
        let cluster = cluster.or_else(|| {
            count += usize::from(is_cluster);
            is_cluster.then(|| count - 1)
        });
        let Some(Merge { left, right, .. }) = node.checked_sub(points).map(|merge| merges[merge]) else {
            labels[node] = cluster.expect("a point is inside a cluster, or one itself");
            continue;
        };
        // What is pushed last is visited first.
        let (inner, leaves): (Vec<_>, Vec<_>) = [right, left].into_iter().partition(|node| *node >= points);
        stack.extend(leaves.into_iter().chain(inner).map(|node| (node, cluster)));
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    /// What xtask/fixtures/multi_vector.py recorded of SciPy.
    #[derive(Deserialize)]
    struct Case {
        points: usize,
        /// Of all pairs, row by row.
        distances: Vec<f64>,
        /// Clusters that were asked for, and the labels.
        cuts: Vec<(usize, Vec<usize>)>,
    }

    #[test]
    fn labels_are_scipys() {
        for case in crate::multi_vector::tests::fixture::<Vec<Case>>("ward.json") {
            for (clusters, expected) in case.cuts {
                let mut distances = case.distances.iter();
                let distances = Distances::new(case.points, |_, _| *distances.next().unwrap());
                let labels: Vec<usize> = distances.labels(clusters).iter().map(|label| label + 1).collect();
                assert_eq!(labels, expected, "{} points in {clusters}", case.points);
            }
        }
    }

    #[test]
    fn few_points() {
        let distances = |points| Distances::new(points, |_, _| 1.0);
        assert_eq!(distances(0).labels(3), [0usize; 0]);
        assert_eq!(distances(1).labels(1), [0]);
        assert_eq!(distances(2).labels(0), [0, 0]);
        assert_eq!(distances(2).labels(2), [0, 1]);
    }
}
