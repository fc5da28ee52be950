// Keeps what the page has loaded, so that it opens again without its server. The
// server is asked first: what it has now is what counts.

const CACHE = 'migan';
const PAGE = ['./', 'style.css', 'app.js', 'photo.js', 'icon.svg'];

addEventListener('install', event => {
  skipWaiting();
  event.waitUntil(caches.open(CACHE).then(cache => cache.addAll(PAGE)));
});

addEventListener('activate', event => event.waitUntil(clients.claim()));

addEventListener('fetch', event => {
  const {method, url} = event.request;
  if (method === 'GET' && new URL(url).origin === location.origin) {
    event.respondWith(fresh(event));
  }
});

async function fresh(event) {
  const cache = await caches.open(CACHE);
  let response;
  try {
    response = await fetch(event.request);
  } catch (error) {
    const kept = await cache.match(event.request, {ignoreSearch: true});
    if (kept) return kept;
    throw error;
  }
  if (response.ok) {
    // A full disk or a private window costs offline use, nothing else.
    event.waitUntil(cache.put(event.request, response.clone()).catch(console.warn));
  }
  return response;
}
