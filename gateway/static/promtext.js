// Prometheus' text format, as far as the live page needs it: sums of counters and gauges, and quantiles of histograms.

/** Text → a map from a metric's name to its samples `{labels, value}`. */
export function parseMetrics(text) {
  const metrics = new Map();
  for (const line of text.split("\n")) {
    if (!line || line.startsWith("#")) continue;
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...(match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, value]) => [name, value]));
    const samples = metrics.get(match[1]) ?? [];
    samples.push({ labels, value: Number(match[3].replace("+Inf", "Infinity")) });
    metrics.set(match[1], samples);
  }
  return metrics;
}

/** Sum of a metric's samples; 0 of none. */
export function sum(metrics, name) {
  return (metrics.get(name) ?? []).reduce((total, { value }) => total + value, 0);
}

/**
 * The `share` quantile of what a histogram has counted since `before`, or null where that is nothing. Within a bucket
 * it is read off a straight line, as Prometheus does.
 */
export function quantile(before, now, name, share) {
  const counts = new Map();
  const add = (metrics, sign) => {
    for (const { labels, value } of metrics?.get(`${name}_bucket`) ?? []) {
      const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
      counts.set(bound, (counts.get(bound) ?? 0) + sign * value);
    }
  };
  add(now, 1);
  add(before, -1);
  const buckets = [...counts].sort(([a], [b]) => a - b);
  const total = buckets.at(-1)?.[1] ?? 0;
  if (total <= 0) return null;
  let [lower, below] = [0, 0];
  for (const [bound, count] of buckets) {
    if (count >= share * total) {
      if (bound === Infinity) return lower;
      return lower + ((bound - lower) * (share * total - below)) / Math.max(count - below, 1e-9);
    }
    [lower, below] = [bound, count];
  }
  return null;
}
