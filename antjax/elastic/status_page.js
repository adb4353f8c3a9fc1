// Copyright 2026 The antjax Authors.
// SPDX-License-Identifier: Apache-2.0
'use strict';
// Everything that is shown goes in as text or attribute, never as HTML.
function make(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {}))
    if (value !== null && value !== undefined && value !== false)
      node.setAttribute(name, value);
  for (const child of children.flat(9))
    if (child !== null && child !== undefined && child !== false)
      node.append(child);
  return node;
}
const el = (tag, attributes, ...children) =>
  make(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => make(
  document.createElementNS('http://www.w3.org/2000/svg', tag),
  attributes, children);

// Changes only what differs: selections and open details stay.
function morph(old, fresh) {
  if (old.nodeName !== fresh.nodeName) { old.replaceWith(fresh); return; }
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const {name} of [...old.attributes])
    if (name !== 'open' && !fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const {name, value} of fresh.attributes)
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const before = [...old.childNodes], after = [...fresh.childNodes];
  after.forEach((node, i) =>
    i < before.length ? morph(before[i], node) : old.append(node));
  before.slice(after.length).forEach(node => node.remove());
}
function fill(id, ...children) {
  const old = document.getElementById(id);
  const fresh = old.cloneNode(false);
  morph(old, make(fresh, {}, children));
}

const known = value => value !== null && value !== undefined;
const count = value => known(value) ? value.toLocaleString('en-US') : '–';
const short = value => !known(value) ? '–'
  : Math.abs(value) >= 100 ? Math.round(value).toLocaleString('en-US')
  : String(Number(value.toPrecision(3)));
const plural = (n, word) => `${count(n)} ${word}${n === 1 ? '' : 's'}`;
function seconds(s) {
  if (!known(s)) return '–';
  if (s < 1) return s <= 0 ? '0 s' : s < 1e-3 ? `${short(s * 1e6)} µs`
    : `${short(s * 1e3)} ms`;
  if (s < 59.5) return `${s < 9.95 ? s.toFixed(1) : Math.round(s)} s`;
  s = Math.round(s);
  const m = Math.floor(s / 60), h = Math.floor(m / 60);
  if (h >= 48) return `${Math.floor(h / 24)} d ${h % 24} h`;
  if (h) return `${h} h ${m % 60} min`;
  return m < 10 && s % 60 ? `${m} min ${s % 60} s` : `${m} min`;
}
// Of an age, whose unit is not to jump.
const ago = s => !known(s) ? '–'
  : `${s < .95 ? s.toFixed(1) + ' s' : seconds(s)} ago`;
function bytes(n) {
  if (!known(n)) return '–';
  for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
    if (n < 1024) return `${short(n)} ${unit}`;
    n /= 1024;
  }
  return `${short(n)} TiB`;
}
function clock(unix) {
  const date = new Date(unix * 1000);
  const day = date.toDateString() === new Date().toDateString() ? ''
    : date.toLocaleDateString('en-GB', {day: 'numeric', month: 'short'}) + ' ';
  return day + date.toLocaleTimeString('en-GB');
}
const BAD = new Set(['persistent', 'deterministic', 'exited']);
const WARN = new Set(['transient', 'silent', 'leaving', 'kept out']);
const GOOD = new Set(['normal', 'running', 'leader']);
const pill = text => el('span', {class: 'pill' + (
  BAD.has(text) ? ' bad' : WARN.has(text) ? ' warn'
  : GOOD.has(text) ? ' good' : '')}, text);
const section = (title, ...children) =>
  el('section', {}, el('h2', {}, title), children);
const leftOut = (n, word) => n > 0 &&
  el('p', {class: 'note'}, `and ${plural(n, word)} more, left out here`);

function table(columns, rows) {
  const shown = new Map(columns.map(c => [c, rows.map(row =>
    [c.show(row)].flat(9).filter(x => known(x) && x !== false && x !== ''))]));
  columns = columns.filter(c => shown.get(c).some(cell => cell.length));
  return el('div', {class: 'wide'}, el('table', {},
    el('thead', {}, el('tr', {}, columns.map(c => el('th',
      {class: /number/.test(c.kind) ? 'number' : null, scope: 'col'},
      c.title)))),
    el('tbody', {}, rows.map((_, i) => el('tr', {}, columns.map(c => {
      const cell = shown.get(c)[i];
      const none = !cell.length || cell[0] === '–';
      return el('td', {class: ((c.kind || '') + (none ? ' none' : '')).trim()
        || null, 'data-label': c.title}, none ? '–' : cell);
    }))))));
}

function spark(values, top) {
  if (!values || values.length < 2) return null;
  const x = i => (100 * i / (values.length - 1)).toFixed(1);
  const y = v => (29 - 27 * Math.min(v / (top || 1), 1)).toFixed(1);
  const last = values[values.length - 1];
  return svg('svg', {class: 'spark', viewBox: '0 0 100 30', role: 'img',
    preserveAspectRatio: 'none', 'aria-label': `batch times from ` +
    `${seconds(Math.min(...values))} to ${seconds(Math.max(...values))}, ` +
    `last ${seconds(last)}`},
    svg('line', {x1: 0, x2: 100, y1: 29.5, y2: 29.5}),
    svg('polyline', {points: values.map((v, i) => `${x(i)},${y(v)}`).join(' ')}));
}

const SHARDS = [['done', 'done', 'done'], ['consumed', 'consumed',
  'used, not yet in a checkpoint'], ['doing', 'doing', 'leased'],
  ['todo', 'todo', 'to do'], ['set_aside', 'aside', 'set aside']];

function dataSet(d) {
  const total = SHARDS.reduce((sum, [key]) => sum + (d.shards[key] || 0), 0);
  let left = 0;
  const parts = SHARDS.map(([key, style]) => {
    const width = total ? 100 * d.shards[key] / total : 0;
    left += width;
    return svg('rect', {class: style, x: (left - width).toFixed(3), y: 0,
      // What exists at all is to be seen.
      width: (width ? Math.max(width, .4) : 0).toFixed(3), height: 1});
  });
  const words = [
    d.is_stream ? (d.is_closed ? 'closed stream' : 'open stream') : 'epoch ' + count(d.num_epochs ?
      Math.min(d.epoch + 1, d.num_epochs) : d.epoch + 1) + (d.num_epochs ? ` of ${count(d.num_epochs)}` : ''),
    `${plural(d.num_records, 'record')}` +
      ` in shards of ${count(d.shard_size)}`,
    known(d.records_per_s) && `${short(d.records_per_s)} records/s`,
    d.is_finished && 'finished'].filter(Boolean);
  return el('div', {class: 'set'},
    el('div', {class: 'set-head'}, el('h3', {}, d.name),
      el('span', {class: 'soft'}, words.join(' · '))),
    svg('svg', {class: 'bar', viewBox: '0 0 100 1', role: 'img',
      preserveAspectRatio: 'none', 'aria-label': 'shards by state'}, parts),
    el('ul', {class: 'legend'}, SHARDS.map(([key, style, name]) =>
      el('li', {class: 'soft'}, svg('svg', {viewBox: '0 0 1 1'},
        svg('rect', {class: style, width: 1, height: 1})),
        el('b', {}, count(d.shards[key])), ' ' + name))),
    d.set_aside.length > 0 && el('details', {class: 'aside-list'},
      el('summary', {}, plural(d.num_set_aside, 'shard') +
        ' set aside: could not be read'),
      el('ul', {}, d.set_aside.map(s => el('li', {},
        `epoch ${s.epoch}, records ${count(s.start)} to ` +
        `${count(s.stop - 1)}: ${s.message}`))),
      leftOut(d.num_set_aside_left_out, 'shard')));
}

function workers(job) {
  const top = Math.max(0, ...job.workers.flatMap(w => w.bpt_s));
  const columns = [
    {title: 'worker', kind: 'name', show: w => w.name},
    {title: 'state', kind: 'state', show: w => pill(w.state)},
    {title: 'batch times', kind: 'full', show: w => spark(w.bpt_s, top)},
    {title: 'micro-batches', kind: 'number', show: w => short(w.quota)},
    {title: 'per sample', kind: 'number', show: w => [
      seconds(w.seconds_per_sample_short), w.slowdown >= 1.2 && el('span',
        {class: w.slowdown >= 2 ? 'bad' : 'warn'},
        ` ${short(w.slowdown)}×`)]},
    {title: 'long run', kind: 'number', show: w =>
      seconds(w.seconds_per_sample_long)},
    {title: 'waits', kind: 'number', show: w => known(w.wait_share) ?
      `${Math.round(100 * w.wait_share)} %` : null},
    {title: 'step', kind: 'number', show: w => count(w.step)},
    {title: 'last beat', kind: 'number', show: w => el('span',
      {class: w.last_beat_age_s > 10 ? 'bad' : null}, ago(w.last_beat_age_s))},
    {title: 'CPU', kind: 'number', show: w => known(w.cpu_share) ?
      `${Math.round(100 * w.cpu_share)} %` : null},
    {title: 'memory', kind: 'number', show: w => w.rss_bytes ?
      bytes(w.rss_bytes) : null},
  ];
  return section(`Workers (${count(job.num_workers)})`,
    job.workers.length ? table(columns, job.workers)
      : el('p', {class: 'soft'}, 'None runs.'),
    leftOut(job.num_workers_left_out, 'worker'),
    top > 0 && el('p', {class: 'note'}, 'Batch times: one scale for all, ' +
      `0 to ${seconds(top)}. 2×: twice the median's time per sample. Waits: ` +
      'share of its time in which it waits for slower workers.'));
}

function actions(job) {
  if (!job.actions.length && !job.idle_reason) return null;
  return section('Actions', job.idle_reason && el('p', {class: 'soft'},
    `Last not done: ${job.idle_reason}`), el('ol', {}, job.actions.map(a => el('li', {},
    el('time', {}, clock(a.unix_s)),
    el('div', {}, el('span', {class: 'what'}, a.text),
      a.reason && el('span', {class: 'soft'}, a.reason))))),
    leftOut(job.num_actions_left_out, 'older action'));
}

function generations(job, now) {
  if (!job.generations.length) return null;
  return section('Generations', table([
    {title: 'generation', kind: 'name numbered', show: g => `${g.generation}`},
    {title: 'began', kind: 'number', show: g => clock(g.started_unix_s)},
    {title: 'lasted', kind: 'number', show: g => seconds(
      (known(g.ended_unix_s) ? g.ended_unix_s : now) - g.started_unix_s)},
    {title: 'workers', kind: 'number', show: g => count(g.num_members)},
    {title: 'ended because', kind: 'full', show: g =>
      known(g.ended_unix_s) ? [g.reason, g.counts && el('span',
        {class: 'soft'}, ' (counts as a restart)')] : pill('running')},
  ], job.generations), leftOut(job.num_generations_left_out, 'older one'));
}

function agents(job) {
  if (!job.agents.length) return null;
  return section('Agents', table([
    {title: 'agent', kind: 'name', show: a => a.name},
    {title: 'state', kind: 'state', show: a => pill(a.state)},
    {title: 'address', show: a => a.address},
    {title: 'device', show: a => a.device_kind},
    {title: 'for', kind: 'number', show: a => seconds(a.state_age_s)},
    {title: 'exit code', kind: 'number', show: a =>
      a.exit_code ? String(a.exit_code) : null},
    {title: 'check of the host', show: a => a.check && (a.check.finding ?
      el('span', {class: 'bad'}, a.check.finding)
      : a.check.state === 'done' ? 'well' : a.check.state)},
    {title: 'last words', kind: 'full', show: a => a.log_tail &&
      el('details', {}, el('summary', {}, 'log'), el('pre', {}, a.log_tail))},
  ], job.agents), leftOut(job.num_agents_left_out, 'agent'));
}

function summary(job) {
  if (job.phase === 'ended') return 'The job is over.';
  const words = Object.entries(job.worker_states)
    .filter(([state]) => BAD.has(state) || WARN.has(state))
    .map(([state, n]) => `${plural(n, 'worker')} ${state}`);
  const aside = job.data_sets.reduce((n, d) => n + d.num_set_aside, 0);
  if (job.num_bad_hosts)
    words.push(`${plural(job.num_bad_hosts, 'host')} named by a check`);
  if (aside) words.push(`${plural(aside, 'shard')} set aside`);
  if (job.phase === 'waiting')
    return ['Waiting for agents.'].concat(words).join(' ');
  return words.length ? words.join(', ') + '.'
    : `All ${plural(job.num_workers, 'worker')} keep pace.`;
}

function cards(job) {
  const card = (value, name, more) => el('div', {}, el('div', {class: 'big'},
    value), el('div', {class: 'soft'}, name, more));
  const plan = job.plan;
  return el('section', {},
    el('div', {class: 'cards'},
      card(count(job.step), 'step'),
      known(job.loss) && card(String(Number(job.loss.toPrecision(4))), 'loss'),
      card(short(job.samples_per_s), 'samples/s'),
      known(job.remaining_s) && card(seconds(job.remaining_s), 'left'),
      job.time && card(`${Math.round(100 * job.time.goodput)} %`, 'goodput',
        ` · again ${seconds(job.time.repeated_steps_s)}, other ` +
        seconds(job.time.other_s)),
      card(count(job.num_workers), 'workers'),
      card(job.generation ? String(job.generation) : '–', 'generation'),
      card(count(job.restarts_used), 'restarts used',
        ` · ${count(job.restarts_left)} left`),
      card(plan.version ? String(plan.version) : '–', 'plan')),
    plan.version > 0 && el('p', {class: 'note'}, [
      plan.reason || 'Plan without a stated reason', `learning rate × ` +
      short(plan.lr_scale), plan.deadline_s > 0 && 'deadline ' +
      seconds(plan.deadline_s)].filter(Boolean).join(' · ')));
}

let latest = null, latestAt = 0, trouble = '', troubleAt = 0;
function chosen() {
  let name = '';
  try { name = decodeURIComponent(location.hash.slice(1)); } catch (_) { }
  return latest.jobs.find(job => job.name === name) || latest.jobs[0];
}
function show() {
  const silent = trouble !== '';
  const banner = document.getElementById('banner');
  banner.hidden = !silent;
  document.body.className = silent ? 'stale' : '';
  if (silent) fill('banner', 'The coordinator does not answer. ',
    el('span', {'aria-live': 'off'},
      `For ${seconds((Date.now() - troubleAt) / 1000)}: ` +
      trouble + (latest ? ` Below: as of ${clock(latestAt / 1000)}.` : '')));
  const state = silent ? el('span', {class: 'pill bad'}, 'no answer')
    : el('span', {class: 'pill'}, 'live');
  if (!latest) {
    if (silent) fill('body', el('p', {class: 'lead'}, 'Nothing to show yet.'));
    return;
  }
  const job = latest.jobs.length ? chosen() : null;
  document.title = (silent ? '⚠ ' : '') + (job ? `${job.name} · antjax`
    : 'antjax');
  fill('head', el('h1', {}, job ? job.name : 'antjax'),
    job && pill(job.phase), state);
  fill('jobs', latest.jobs.length > 1 && latest.jobs.map(j => el('a',
    {href: '#' + encodeURIComponent(j.name),
     'aria-current': j === job ? 'page' : null}, j.name)),
    latest.num_jobs_left_out > 0 &&
      el('span', {class: 'soft'}, `and ${latest.num_jobs_left_out} more`));
  fill('body', job ? [el('p', {class: 'lead'}, summary(job)), cards(job),
    workers(job), job.data_sets.length > 0 && section('Data', job.data_sets.map(
      dataSet), leftOut(job.num_data_sets_left_out, 'data set')),
    actions(job), generations(job, latest.time_unix_s), agents(job)]
    : el('p', {class: 'lead'},
      'No job yet: none has spoken to this coordinator.'));
  fill('foot', `Coordinator's clock: ${clock(latest.time_unix_s)}. `,
    el('a', {href: 'status.json'}, 'status.json'), ' · ',
    el('a', {href: 'metrics'}, 'metrics'));
}
async function ask() {
  try {
    const reply = await fetch('status.json',
      {cache: 'no-store', signal: AbortSignal.timeout(5000)});
    if (reply.status === 401)
      throw Error('it wants a token; open this page with ?token=… once.');
    if (!reply.ok) throw Error(`it said ${reply.status}.`);
    latest = await reply.json();
    latestAt = Date.now();
    trouble = '';
  } catch (error) {
    if (!trouble) troubleAt = Date.now();
    trouble = error.name === 'TimeoutError' ? 'nothing within 5 s.'
      : error instanceof TypeError ? 'no connection.' : error.message;
  }
  show();
}
async function loop() {
  // A page that nobody sees asks for nothing.
  if (!document.hidden) await ask();
  setTimeout(loop, 1000);
}
addEventListener('hashchange', () => latest && show());
loop();
