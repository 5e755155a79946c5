
'use strict';
// Shows what GET /v1/services and /flows say. It reads, and never changes anything; it does not read /v1/events,
// because whoever does keeps the leases of drains alive, and a page that somebody has left open must not.
// Whatever comes from outside becomes text (textContent), never markup.

const EVERY_MS = 1000, SAMPLES = 90, MOST_ROWS = 100, MOST_DRAINS = 50, OPEN_AT_FIRST = 5, MOST_FLOWS = 20, MOST_LOG = 100;
const MARK = { serving: '●', settling: '◔', rejecting: '◑', drained: '✔', expired: '⚠' };
const SAYS = {
  settling: 'still accepts new connections, and waits until none come',
  rejecting: 'refuses new connections, and waits for those that are left',
  drained: 'zero is proven: it is safe to stop the server',
  expired: 'the deadline passed and connections are left; new ones are refused',
};
const $ = (id) => document.getElementById(id);
const seen = new Map();
let token = '', scope = '?netns=all', answeredAt = null, lost = false, timer = 0, list = [];

class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

async function ask(path) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { headers, cache: 'no-store', signal: AbortSignal.timeout(10000) });
  const text = await answer.text();
  if (answer.ok) return JSON.parse(text);
  let message = `HTTP status ${answer.status}`;
  try { message = JSON.parse(text).error.message; } catch { /* No agent of ours has written that. */ }
  throw new Refused(answer.status, message);
}

// Small things

function make(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === 'data') Object.assign(node.dataset, value); else node[name] = value;
  }
  node.append(...children);
  return node;
}
function write(node, text) { if (node.textContent !== text) node.textContent = text; }
function clock(date) { return date.toLocaleTimeString([], { hour12: false }); }
function count(n, one, many = `${one}s`) { return `${n} ${n === 1 ? one : many}`; }
function time(ms) {
  const s = Math.floor(ms / 1000);
  if (s < 1) return `${ms} ms`;
  if (s < 60) return `${(ms / 1000).toFixed(1)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
}
function bytes(n) {
  for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
    if (n < 1024 || unit === 'GiB') return `${unit === 'B' ? n : n.toFixed(1)} ${unit}`;
    n /= 1024;
  }
}
function name(service) {
  const { pod, netns, port } = service;
  return pod ? `${pod.namespace}/${pod.name} :${port}` : `netns ${netns} :${port}`;
}
function rate(n) { return n === null ? '–' : n < 10 ? n.toFixed(1) : String(Math.round(n)); }

// Rates, from two counts that follow each other. One that has become less was begun anew.

function sample(service, at) {
  let entry = seen.get(service.id);
  if (!entry) seen.set(service.id, entry = { arrivals: [], refusals: [], last: null });
  const { last } = entry;
  if (last && at > last.at) {
    const per = (now, before) => now < before ? 0 : (now - before) * 1000 / (at - last.at);
    entry.arrivals.push(per(service.accepted, last.service.accepted));
    entry.refusals.push(per(service.rejected, last.service.rejected));
    for (const rates of [entry.arrivals, entry.refusals]) if (rates.length > SAMPLES) rates.shift();
  }
  if (last && last.service.state !== service.state) note(`${name(service)}: ${last.service.state} → ${service.state}`);
  if (!last && answeredAt && service.drain) note(`${name(service)}: ${service.state}`);
  entry.last = { at, service };
  return entry;
}
function note(text) {
  $('no-log').hidden = true;
  $('log').prepend(make('li', { textContent: `${clock(new Date())}  ${text}` }));
  while ($('log').children.length > MOST_LOG) $('log').lastChild.remove();
}
function spark() {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', `0 0 ${SAMPLES} 20`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('aria-hidden', 'true');
  svg.append(document.createElementNS('http://www.w3.org/2000/svg', 'path'));
  return svg;
}
function draw(svg, rates) {
  const top = Math.max(1, ...rates), from = SAMPLES - rates.length;
  const points = rates.map((n, i) => `${from + i} ${(19 - 18 * n / top).toFixed(1)}`);
  svg.firstChild.setAttribute('d', points.length ? `M${points.join('L')}` : '');
}

// The table: one row a service, kept and changed in place, so that focus and reading position stay.

function row(service) {
  const head = make('th', { scope: 'row', className: 'id' }), state = make('span', { className: 'state' });
  const flows = make('td', { className: 'n' });
  const [newer, refused] = [spark(), spark()].map((svg) => ({ svg, text: document.createTextNode('') }));
  const cell = ({ svg, text }) => make('td', { className: 'n' }, svg, text);
  const tr = make('tr', { data: { id: service.id } }, head, make('td', {}, state), flows, cell(newer), cell(refused));
  return { tr, head, state, flows, newer, refused };
}
function fill(parts, service, entry) {
  parts.tr.cells[1].dataset.state = service.state;
  write(parts.head, name(service));
  write(parts.state, `${MARK[service.state]} ${service.state}`);
  write(parts.flows, service.unknown ? `${service.flows}?` : String(service.flows));
  for (const [part, rates] of [[parts.newer, entry.arrivals], [parts.refused, entry.refusals]]) {
    write(part.text, rate(rates.at(-1) ?? null));
    draw(part.svg, rates);
  }
}
function matches(service) {
  const words = $('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = `${service.id} ${service.netns} :${service.port} ${name(service)} ${service.state}`.toLowerCase();
  return words.every((word) => text.includes(word));
}
function table() {
  const wanted = list.filter(matches), shown = wanted.slice(0, MOST_ROWS), body = $('services');
  shown.forEach((service, i) => {
    const entry = seen.get(service.id);
    entry.row ??= row(service);
    fill(entry.row, service, entry);
    if (body.children[i] !== entry.row.tr) body.insertBefore(entry.row.tr, body.children[i] ?? null);
  });
  while (body.children.length > shown.length) body.lastChild.remove();
  const rest = wanted.length - shown.length;
  write($('shown'), rest ? `${rest} more: type to find them` : count(wanted.length, 'service'));
}

// Drains: a card each

function card(service, open) {
  const id = make('span', { className: 'id' }), state = make('span', { className: 'state' });
  const when = make('span', { className: 'when' }), bar = make('div', { className: 'bar', ariaHidden: 'true' });
  const course = make('ol', { className: 'course' }), unknown = make('p', { className: 'unknown', hidden: true });
  const figures = make('dl'), verdict = make('p', { className: 'verdict' }), flows = make('div', { className: 'wide' });
  const summary = make('summary', {}, id, state, when);
  const box = make('details', { className: 'drain', open, data: { id: service.id } }, summary, bar, course, verdict, unknown, figures, flows);
  box.addEventListener('toggle', () => { if (box.open) soon(0); });
  return { box, summary, id, state, when, bar, course, unknown, figures, verdict, flows };
}
function fillCard(parts, service) {
  const { drain } = service;
  parts.summary.dataset.state = service.state;
  write(parts.id, name(service));
  write(parts.state, `${MARK[service.state]} ${service.state}`);
  const deadline = drain.deadline_in_ms ? `deadline in ${time(drain.deadline_in_ms)}` : 'the deadline has passed';
  write(parts.when, `for ${time(drain.age_ms)} · ${deadline} · traffic comes back by itself in ${time(drain.lease_in_ms)}`);
  const stays = drain.history.map((each, i) => ({ state: each.state, ms: each.ago_ms - (drain.history[i + 1]?.ago_ms ?? 0) }));
  parts.bar.replaceChildren(...stays.map(({ state, ms }) => {
    const part = make('span', { data: { state } });
    part.style.flexGrow = String(ms);
    return part;
  }), restOf(drain));
  parts.course.replaceChildren(...stays.map(({ state, ms }) => make('li', { data: { state } },
    make('span', { className: 'state', textContent: state }), ` ${time(ms)}`)));
  const what = [count(service.flows, 'connection'), count(service.handshakes, 'handshake'), count(service.lingering, 'lingering', 'lingering')];
  const left = what.filter((text) => !text.startsWith('0 '));
  const others = waits(service);
  write(parts.verdict, `${SAYS[service.state] ?? ''}${left.length ? `. Left: ${left.join(', ')}.` : '.'}` +
    `${others.length ? ` Waits for: ${others.join(', ')}.` : ''}${untold(service).join('')}`);
  parts.unknown.hidden = !service.unknown;
  write(parts.unknown, service.unknown ? `The count cannot be verified: ${service.unknown}` : '');
  const { retire } = drain;
  const cannot = Object.values(retire.untellable).reduce((sum, n) => sum + n, 0);
  const figures = [
    ['told', retire.told_by_header + retire.told_by_goaway], ['FIN sent', retire.fin_sent], ['left by themselves', retire.left],
    ['cut', retire.aborted], ['refused', service.rejected], ['handed over', drain.handed_over], ['cannot be told', cannot],
  ];
  parts.figures.replaceChildren(...figures.map(([term, n]) => make('div', {},
    make('dt', { textContent: term }), make('dd', { textContent: String(n) }))));
}
// What a drain waits for that is no connection of its service, as `drainctl status` says it.
function waits({ holds, drain }) {
  const held = (holds ?? []).map(({ name, left_ms }) => `hold ${name} (${time(left_ms)} left)`);
  const outbound = (drain.wait_outbound ?? []).filter(({ connections }) => connections !== 0)
    .map(({ to, connections }) => `${connections === null ? 'connections' : count(connections, 'connection')} to ${to}`);
  return [...held, ...outbound];
}
function untold({ registries }) {
  return (registries ?? []).filter(({ failure }) => failure).map(({ name, failure: { event, why } }) =>
    ` Registry ${name} cannot be told that it ${event === 'drain' ? 'leaves' : 'is back'}: ${why}.`);
}
function restOf(drain) {
  const rest = make('span', {});
  rest.style.flexGrow = String(drain.deadline_in_ms);
  return rest;
}
function cellsOf(flow) {
  const made = { told_by_header: 'told', told_by_goaway: 'told (GOAWAY)', fin_sent: 'FIN sent' }[flow.retire] ??
    (flow.barrier ? `cannot be told: ${flow.barrier.replaceAll('_', ' ')}` : 'not yet');
  const age = flow.age_ms === null ? '–' : time(flow.age_ms);
  return [flow.peer, age, `${bytes(flow.bytes_in)} / ${bytes(flow.bytes_out)}`, flow.activity, made, flow.why];
}
function fillFlows(box, flows) {
  const blocking = flows.filter((flow) => flow.class === 'counted'), rows = blocking.slice(0, MOST_FLOWS).map(cellsOf);
  const more = blocking.length - rows.length, peers = `${rows.map(([peer]) => peer)} ${more}`;
  // Changed in place if they are the same ones: somebody may be copying an address.
  if (box.dataset.peers === peers) {
    return box.querySelectorAll('tbody tr').forEach((tr, y) => rows[y].forEach((text, x) => write(tr.cells[x], text)));
  }
  box.dataset.peers = peers;
  if (!rows.length) return box.replaceChildren();
  const head = ['Peer', 'Age', 'In / out', 'Doing', 'Made to leave', 'Why'];
  const line = (tag, texts) => make('tr', {}, ...texts.map((text) => make(tag, { textContent: text })));
  const table = make('table', {}, make('thead', {}, line('th', head)), make('tbody', {}, ...rows.map((row) => line('td', row))));
  box.replaceChildren(table, make('p', { className: 'dim', textContent: more > 0 ? `and ${more} more: drainctl flows lists all` : '' }));
}
async function drains() {
  const all = list.filter((service) => service.drain).sort((a, b) => b.drain.age_ms - a.drain.age_ms);
  const shown = all.slice(0, MOST_DRAINS), box = $('drains');
  $('no-drain').hidden = all.length > 0;
  write($('more-drains'), all.length > shown.length ? `${all.length - shown.length} more drains, in the table below` : '');
  const keep = new Set(shown.map((service) => service.id));
  for (const [id, entry] of seen) {
    if (entry.card && !keep.has(id)) { entry.card.box.remove(); delete entry.card; }
  }
  shown.forEach((service, i) => {
    const entry = seen.get(service.id);
    entry.card ??= card(service, i < OPEN_AT_FIRST);
    fillCard(entry.card, service);
    if (box.children[i] !== entry.card.box) box.insertBefore(entry.card.box, box.children[i] ?? null);
  });
  const open = shown.filter((service) => seen.get(service.id).card.box.open).slice(0, MOST_FLOWS);
  await Promise.all(open.map(async (service) => {
    const { flows } = seen.get(service.id).card;
    const left = service.flows + service.handshakes + service.lingering;
    try {
      fillFlows(flows, left ? (await ask(`/v1/services/${service.id}/flows`)).flows : []);
    } catch (error) {
      // Slow is not gone: the services have just been answered.
      const slow = error.name === 'TimeoutError';
      if (!slow && !(error instanceof Refused)) throw error;
      delete flows.dataset.peers;
      const why = slow ? 'the agent takes too long' : error.message;
      flows.replaceChildren(make('p', { className: 'unknown', textContent: `Its connections cannot be listed: ${why}` }));
    }
  }));
}

// The loop: ask, show, wait. Where there is much to show, it asks less often.

function show(answer) {
  const at = performance.now();
  list = answer.services;
  const now = new Set(list.map((service) => service.id));
  for (const [id, entry] of seen) {
    if (!now.has(id)) { note(`${name(entry.last.service)}: gone`); entry.card?.box.remove(); entry.row?.tr.remove(); seen.delete(id); }
  }
  for (const service of list) sample(service, at);
  const draining = list.filter((service) => service.drain), late = draining.filter((service) => service.state === 'expired');
  write($('sum'), `${count(list.length, 'service')}, ${draining.length} draining${late.length ? `, ${late.length} past the deadline` : ''}`);
  document.title = draining.length ? `${draining.length} draining – drainctl` : 'drainctl';
  const missing = answer.hooks_missing.map(({ pod, why }) => `${pod} has no preStop hook: ${why}`);
  $('hooks').hidden = !missing.length;
  write($('hooks'), missing.join('; '));
  table();
}
function live() {
  answeredAt = new Date();
  lost = false;
  document.body.classList.remove('stale');
  $('link').dataset.state = 'live';
  write($('link'), 'Live');
  write($('at'), `as of ${clock(answeredAt)}`);
  $('login').hidden = true;
  $('main').hidden = false;
}
function lose(error) {
  const why = error instanceof Refused ? `the agent says: ${error.message}` : 'the agent does not answer';
  if (!lost && answeredAt) note('connection lost');
  lost = true;
  document.body.classList.add('stale');
  $('link').dataset.state = 'lost';
  write($('link'), answeredAt ? `No connection since ${clock(answeredAt)}: what is below was true then` : 'No connection');
  write($('at'), `(${why}; trying again)`);
}
function login(message) {
  $('login').hidden = false;
  write($('link'), token ? 'The token is wrong' : 'A token is needed');
  $('link').dataset.state = 'lost';
  write($('at'), token ? message : '');
  document.body.classList.add('stale');
  token = '';
  $('token').focus();
}
async function turn() {
  const began = performance.now();
  try {
    show(await ask(`/v1/services${scope}`));
    live();
    await drains();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return login(error.message);
    if (error instanceof Refused && error.status === 403 && scope) {
      // Asked for once: the agent logs each refusal.
      scope = '';
      $('scope').hidden = false;
      write($('scope'), 'Only the network namespace that you come from: all of the node are for its root.');
      return soon(0);
    }
    lose(error);
  }
  soon(Math.max(EVERY_MS, 3 * (performance.now() - began)));
}
let turning = null;
function soon(ms) {
  clearTimeout(timer);
  timer = setTimeout(() => { turning ??= turn().finally(() => { turning = null; }); }, ms);
}

$('filter').addEventListener('input', table);
document.addEventListener('keydown', (event) => {
  if (event.key !== '/' || event.target instanceof HTMLInputElement) return;
  event.preventDefault();
  $('filter').focus();
});
document.addEventListener('visibilitychange', () => { if (!document.hidden && answeredAt) soon(0); });
$('login').addEventListener('submit', (event) => {
  event.preventDefault();
  token = $('token').value.trim();
  $('token').value = '';
  // Other letters cannot be in a header.
  if (/^[\x21-\x7e]+$/.test(token)) soon(0); else login('a token has no spaces and no letters beyond ASCII');
});
soon(0);
