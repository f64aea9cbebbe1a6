/** Base64 text to bytes. */

/**
 * The bytes that `text` stands for; white space is ignored. Throws RangeError for anything else.
 * @param {string} text
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function bytesOfBase64(text) {
  let raw;
  try {
    raw = atob(text.trim());
  } catch {
    throw new RangeError("the text is not base64");
  }
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}
