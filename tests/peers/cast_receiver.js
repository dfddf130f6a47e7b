// Plays a Google Cast television: the receiver and its default media application, on npm castv2's own Server (TLS and
// protobuf framing are therefore not Mantel's). It does fetch what it is told to play: ffprobe reads the title, and
// ffmpeg decodes it in real time into nothing; the position that is reported is ffmpeg's.
//
//   node cast_receiver.js ADDRESS PORT KEY.pem CERTIFICATE.pem
//
// Each change is a line "state {...}" on its output, for tests that want to know what the television itself thinks.
'use strict';

const { Server } = require('castv2');
const { CastMessage } = require('castv2/lib/proto');
const { spawn, execFile } = require('child_process');
const fs = require('fs');

const [address, port, keyFile, certFile] = process.argv.slice(2);
const APP = 'CC1AD845';
const NS = {
  connection: 'urn:x-cast:com.google.cast.tp.connection',
  heartbeat: 'urn:x-cast:com.google.cast.tp.heartbeat',
  receiver: 'urn:x-cast:com.google.cast.receiver',
  media: 'urn:x-cast:com.google.cast.media',
};

const server = new Server({ key: fs.readFileSync(keyFile), cert: fs.readFileSync(certFile) });
const volume = { controlType: 'attenuation', level: 0.5, muted: false, stepInterval: 0.05 };
// Virtual connections: "client|sender|destination".
const joined = new Set();
let launches = 0;
let app = null;

// What is loaded: a queue of items, the one that plays, and ffmpeg's view of it.
let sessions = 0;
let player = null;

function probe(url) {
  return new Promise((resolve, reject) => {
    const args = ['-v', 'error', '-show_entries', 'format=duration:stream=codec_type', '-of', 'json', url];
    execFile('ffprobe', args, { timeout: 15000 }, (error, output) => {
      if (error) return reject(error);
      const told = JSON.parse(output);
      if (!told.streams || told.streams.length === 0) return reject(new Error('nothing to play'));
      resolve(Number(told.format.duration) || 0);
    });
  });
}

function halt() {
  if (player && player.process) {
    player.process.removeAllListeners();
    player.process.kill('SIGKILL');
    player.process = null;
  }
}

function run() {
  halt();
  const mine = player;
  const from = mine.position;
  const args = ['-nostdin', '-v', 'error', '-re', '-ss', String(from), '-i', mine.item.media.contentId];
  mine.process = spawn('ffmpeg', [...args, '-f', 'null', '-stats_period', '0.2', '-progress', 'pipe:1', '-']);
  mine.process.stdout.on('data', (chunk) => {
    for (const found of String(chunk).matchAll(/out_time_us=(\d+)/g)) {
      mine.position = from + Number(found[1]) / 1e6;
      mine.state = 'PLAYING';
    }
  });
  mine.process.stderr.on('data', (chunk) => process.stderr.write(chunk));
  mine.process.on('exit', (code) => {
    mine.process = null;
    if (mine !== player) return;
    if (code === 0) return finished();
    idle('ERROR');
  });
}

async function finished() {
  const next = player.queue.shift();
  if (!next) return idle('FINISHED');
  try {
    Object.assign(player, { item: next, duration: await probe(next.media.contentId), position: 0, state: 'BUFFERING' });
    run();
    tell();
  } catch (_) {
    idle('ERROR');
  }
}

function idle(reason) {
  halt();
  Object.assign(player, { state: 'IDLE', reason });
  tell();
}

function mediaStatus() {
  if (!player) return [];
  const media = Object.assign({ duration: player.duration }, player.item.media, { duration: player.duration });
  const status = {
    mediaSessionId: player.session,
    playbackRate: 1,
    playerState: player.state,
    currentTime: player.position,
    supportedMediaCommands: 12303,
    volume: { level: 1, muted: false },
    media,
  };
  if (player.state === 'IDLE') status.idleReason = player.reason;
  return [status];
}

function receiverStatus() {
  return { applications: app ? [app] : [], userEq: {}, volume };
}

function send(client, to, from, namespace, message) {
  if (server.clients[client]) server.send(client, from, to, namespace, JSON.stringify(message));
}

function say() {
  const now = player ? { state: player.state, url: player.item.media.contentId, position: player.position } : null;
  console.log(`state ${JSON.stringify({ level: volume.level, muted: volume.muted, app: Boolean(app), player: now })}`);
}

// Tells everybody of a change, as a television does.
function tell() {
  say();
  for (const line of joined) {
    const [client, sender, destination] = line.split('|');
    if (app && destination === app.transportId) {
      send(client, sender, destination, NS.media, { type: 'MEDIA_STATUS', status: mediaStatus(), requestId: 0 });
    } else if (destination === 'receiver-0') {
      send(client, sender, destination, NS.receiver, { type: 'RECEIVER_STATUS', status: receiverStatus(), requestId: 0 });
    }
  }
}

function endApp() {
  halt();
  player = null;
  const gone = app;
  app = null;
  for (const line of [...joined]) {
    const [client, sender, destination] = line.split('|');
    if (gone && destination === gone.transportId) {
      send(client, sender, destination, NS.connection, { type: 'CLOSE' });
      joined.delete(line);
    }
  }
}

function onReceiver(message) {
  if (message.type === 'LAUNCH') {
    if (message.appId !== APP) return { type: 'LAUNCH_ERROR', reason: 'NOT_FOUND' };
    endApp();
    launches += 1;
    app = {
      appId: APP,
      appType: 'WEB',
      displayName: 'Default Media Receiver',
      isIdleScreen: false,
      namespaces: [{ name: NS.media }],
      sessionId: `session-${launches}`,
      statusText: 'Default Media Receiver',
      transportId: `web-${launches}`,
    };
  }
  if (message.type === 'STOP') {
    if (!app || message.sessionId !== app.sessionId) return { type: 'INVALID_REQUEST', reason: 'INVALID_SESSION' };
    endApp();
  }
  if (message.type === 'SET_VOLUME') Object.assign(volume, message.volume);
  if (message.type !== 'GET_STATUS') tell();
  return { type: 'RECEIVER_STATUS', status: receiverStatus() };
}

async function load(message) {
  halt();
  const url = message.media.contentId;
  try {
    const duration = await probe(url);
    sessions += 1;
    const item = { media: message.media };
    player = { session: sessions, item, queue: [], duration, position: message.currentTime || 0, state: 'PAUSED', process: null };
    if (message.autoplay !== false) {
      player.state = 'BUFFERING';
      run();
    }
  } catch (error) {
    console.error(`cannot load ${url}: ${error.message}`);
    player = null;
    return { type: 'LOAD_FAILED', detailedErrorCode: /Connection|40\d|50\d/.test(error.message) ? 103 : 104 };
  }
  return null;
}

async function onMedia(message) {
  if (message.type === 'LOAD') {
    const failure = await load(message);
    if (failure) return failure;
  } else if (message.type !== 'GET_STATUS') {
    const live = player && player.state !== 'IDLE' && message.mediaSessionId === player.session;
    if (!live) return { type: 'INVALID_PLAYER_STATE' };
    if (message.type === 'PAUSE') {
      halt();
      player.state = 'PAUSED';
    } else if (message.type === 'PLAY' && player.state === 'PAUSED') {
      player.state = 'BUFFERING';
      run();
    } else if (message.type === 'SEEK') {
      player.position = message.currentTime;
      if (player.state !== 'PAUSED') run();
    } else if (message.type === 'STOP') {
      idle('CANCELLED');
    } else if (message.type === 'QUEUE_INSERT') {
      player.queue.push(...message.items);
    } else if (message.type !== 'PLAY') {
      return { type: 'INVALID_REQUEST', reason: 'INVALID_COMMAND' };
    }
  }
  if (message.type !== 'GET_STATUS') tell();
  return { type: 'MEDIA_STATUS', status: mediaStatus() };
}

server.on('message', async (client, sender, destination, namespace, data) => {
  const message = JSON.parse(data);
  const line = `${client}|${sender}|${destination}`;
  if (namespace === NS.connection) {
    if (message.type === 'CONNECT') joined.add(line);
    else joined.delete(line);
    return;
  }
  // A television drops those who speak without a virtual connection.
  if (!joined.has(line)) return;
  let answer = null;
  if (namespace === NS.heartbeat && message.type === 'PING') answer = { type: 'PONG' };
  else if (namespace === NS.receiver && destination === 'receiver-0') answer = onReceiver(message);
  else if (namespace === NS.media && app && destination === app.transportId) answer = await onMedia(message);
  if (answer) send(client, sender, destination, namespace, Object.assign(answer, { requestId: message.requestId }));
});

// A television asks its senders whether they are there.
setInterval(() => {
  for (const line of joined) {
    const [client, sender, destination] = line.split('|');
    if (!server.clients[client]) joined.delete(line);
    else if (destination === 'receiver-0') send(client, sender, destination, NS.heartbeat, { type: 'PING' });
  }
}, 5000);
setInterval(() => { if (player && player.state === 'PLAYING') say(); }, 500);

process.on('SIGTERM', () => { halt(); process.exit(0); });

// castv2 reads its protobuf schema after it is required.
function listen() {
  try {
    CastMessage.parse(Buffer.alloc(0));
  } catch (error) {
    if (/not loaded/.test(error.message)) return setTimeout(listen, 20);
  }
  server.listen(Number(port), address, () => console.log('ready'));
}
listen();
