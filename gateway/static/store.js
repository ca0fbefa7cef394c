// Conversations, kept in this browser (IndexedDB) and nowhere else. Where the browser refuses that, they last until the
// page is closed.

const NAME = "penstock";
const STORE = "conversations";

/** What is asked of an IndexedDB request, as a promise. */
function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function open() {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
  return await settled(request);
}

class Store {
  #memory = new Map();
  #database = open().catch(() => null);

  async #ask(mode, use) {
    const database = await this.#database;
    if (!database) return null;
    return await settled(use(database.transaction(STORE, mode).objectStore(STORE)));
  }

  /** Newest first. */
  async all() {
    const found = (await this.#ask("readonly", (store) => store.getAll())) ?? [...this.#memory.values()];
    return found.sort((a, b) => b.updated - a.updated);
  }

  async get(id) {
    return (await this.#ask("readonly", (store) => store.get(id))) ?? this.#memory.get(id) ?? null;
  }

  async put(conversation) {
    const stored = await this.#ask("readwrite", (store) => store.put(conversation)).catch(() => null);
    if (stored === null) this.#memory.set(conversation.id, conversation); // full, or refused
  }

  async remove(id) {
    this.#memory.delete(id);
    await this.#ask("readwrite", (store) => store.delete(id));
  }
}

export const store = new Store();
