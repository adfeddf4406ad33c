// Statistics of the groups that the reader chooses, by the formulas of bcq_exp.analysis.statistics.

const total = (values) => values.reduce((a, b) => a + b, 0);
const meanOf = (values) => (values.length ? total(values) / values.length : null);

// P(a run of x beats one of y) with its interval; x and y are Maps of data set to scores
function improvement(x, y) {
  const pairs = [...x].filter(([task]) => y.has(task)).map(([task, scores]) => [scores, y.get(task)]);
  if (!pairs.length) return null;
  const wins = pairs.map(([a, b]) => winsOf(a, b));
  const value = meanOf(wins);
  if (pairs.some(([a, b]) => Math.min(a.length, b.length) < 2)) return [value, null, null];
  const ends = pairs.map(([a, b], i) => scoreInterval(wins[i], a.length, b.length));
  const reach = (end) => Math.sqrt(total(wins.map((w, i) => (w - ends[i][end]) ** 2))) / wins.length;
  return [value, value - reach(0), value + reach(1)];
}

function winsOf(x, y) { // Mann-Whitney's U over N M
  const won = x.map((a) => total(y.map((b) => (a > b ? 1 : a === b ? 0.5 : 0))));
  return total(won) / x.length / y.length;
}

function scoreInterval(wins, numX, numY) { // Newcombe 2006, method 5
  const others = (numX + numY) / 2 - 1;
  const variance = (p) => (p * (1 - p) * (1 + others * ((1 - p) / (2 - p) + p / (1 + p)))) / numX / numY;
  const excess = (p) => (wins - p) ** 2 - DATA.normal_margin ** 2 * variance(p);
  const inside = Math.min(Math.max(wins, 1e-9), 1 - 1e-9); // at 0 and 1 the variance is 0
  return [wins > 0 ? zeroOf(excess, 0, inside) : 0, wins < 1 ? zeroOf(excess, 1, inside) : 1];
}

function zeroOf(excess, positive, negative) { // by bisection
  for (let i = 0; i < 50; i++) {
    const middle = (positive + negative) / 2;
    if (excess(middle) > 0) positive = middle;
    else negative = middle;
  }
  return (positive + negative) / 2;
}

// share of runs above each score, as steps from low to high, with exact intervals
function profile(scores, low, high) {
  const sorted = [...scores].sort((a, b) => a - b);
  const x = [low, ...sorted, high];
  const above = x.map((t) => sorted.filter((s) => s > t).length);
  const bounds = DATA.share_intervals[sorted.length];
  return { x, share: above.map((k) => k / sorted.length), low: above.map((k) => bounds[0][k]), high: above.map((k) => bounds[1][k]) };
}

function band(curves) { // mean and 95% interval over runs on a common x; a gap where a run has ended
  const alike = curves.every((c) => c.x === curves[0].x);
  let xs = alike ? curves[0].x : [...new Set(curves.flatMap((c) => c.x))].sort((a, b) => a - b);
  if (!alike && xs.length > 200) { // wall times differ by run: an even grid
    const [low, high] = [xs[0], xs[xs.length - 1]];
    xs = Array.from({ length: 100 }, (_, i) => low + ((high - low) * i) / 99);
  }
  const out = { x: [], mean: [], low: [], high: [] };
  const ends = curves.map((c) => c.x.findLast((_, i) => c.y[i] !== null));
  let before = 0;
  for (const [i, x] of xs.entries()) {
    const ys = curves.map((c) => (alike ? c.y[i] : interpolated(c.x, c.y, x))).filter((v) => v !== null);
    if (!ys.length || ys.length < curves.length / 2) continue;
    const mean = meanOf(ys);
    const margin = DATA.margins[ys.length];
    const error = Math.sqrt(total(ys.map((y) => (y - mean) ** 2)) / (ys.length - 1) / ys.length);
    const left = ends.filter((end) => end >= x).length;
    for (const value of left < before ? [null, mean] : [mean]) {
      out.x.push(x);
      out.mean.push(value);
      out.low.push(margin === null ? null : mean - margin * error);
      out.high.push(margin === null ? null : mean + margin * error);
    }
    before = left;
  }
  return out;
}

function interpolated(xs, ys, x) {
  if (x < xs[0] || x > xs[xs.length - 1]) return null;
  const hi = xs.findIndex((v) => v >= x);
  if (xs[hi] === x || hi === 0) return ys[hi];
  const share = (x - xs[hi - 1]) / (xs[hi] - xs[hi - 1]);
  return ys[hi - 1] === null || ys[hi] === null ? null : ys[hi - 1] + share * (ys[hi] - ys[hi - 1]);
}

function smoothed(values, weight) { // exponential moving average, as dashboards do
  let last = null;
  return values.map((v) => {
    if (v === null) return null;
    last = last === null ? v : weight * last + (1 - weight) * v;
    return last;
  });
}
