// Requests to the server that served this page, with its token.

const token = new URLSearchParams(location.search).get("token") ?? "";

export class RequestError extends Error {
  constructor(message, status, changed) {
    super(message);
    this.status = status;
    this.changed = changed ?? [];
  }
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { "X-LymphInfer-Token": token, ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError("The server does not answer. Is `lymphinfer gate serve` still running? " +
      "What was saved is in the gates file.", 0);
  }
  if (response.ok) return response.json();
  const text = await response.text();
  let told = { error: text };
  try { told = JSON.parse(text); } catch { /* plain text */ }
  throw new RequestError(told.error || `${response.status}`, response.status, told.changed);
}

export const get = (path, options = {}) => request(path, options);

export const post = (path, body = {}, options = {}) => request(path, {
  method: "POST",
  body: JSON.stringify(body),
  headers: { "Content-Type": "application/json" },
  // A change that is under way is still sent when the page is closed.
  keepalive: true,
  ...options,
});

export const pictureUrl = (folder, row, kind) =>
  `/api/slides/${encodeURIComponent(folder)}/cells/${row}/${encodeURIComponent(kind)}.jpg` +
  `?token=${encodeURIComponent(token)}`;

export const gatePath = (folder, marker, what) =>
  `/api/slides/${encodeURIComponent(folder)}/${encodeURIComponent(marker)}/${what}`;
