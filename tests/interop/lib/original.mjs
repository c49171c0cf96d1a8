// The original's credentials on disk: wa-multi-session's table in SQLite, as wa-gateway 4.7.1 keeps it.

import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import Database from 'libsql'

export class OriginalDatabase {
  /** Opens `database.db` in the folder, and makes it. */
  constructor(folder) {
    mkdirSync(folder, { recursive: true })
    this.path = join(folder, 'database.db')
    this.db = new Database(this.path)
    this.db.exec('PRAGMA journal_mode = WAL')
    this.db.exec('PRAGMA busy_timeout = 5000')
    this.db.exec(`CREATE TABLE IF NOT EXISTS auth_store (
      id TEXT, session_id TEXT, category TEXT, value TEXT, PRIMARY KEY (id, session_id)
    )`)
  }

  /** The rows of one session, for a client to keep its credentials in. */
  session(session) {
    const db = this.db
    const read = db.prepare('SELECT value FROM auth_store WHERE id = ? AND session_id = ?')
    const write = db.prepare('INSERT OR REPLACE INTO auth_store (id, session_id, category, value) VALUES (?, ?, ?, ?)')
    const remove = db.prepare('DELETE FROM auth_store WHERE id = ? AND session_id = ?')
    const keys = db.prepare('SELECT id FROM auth_store WHERE category = ? AND session_id = ?')
    return {
      read: (key) => read.get(key, session)?.value,
      write: (key, category, json) => write.run(key, session, category, json),
      remove: (key) => remove.run(key, session),
      keys: (category) => keys.all(category, session).map((row) => row.id),
    }
  }

  close() {
    this.db?.close()
    this.db = undefined
  }
}
