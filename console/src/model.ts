// What the API answers: the parts of its schemas (GET /api/openapi.json) that the page uses.

export interface Problem {
  status: number;
  title: string;
  detail: string;
  type: string;
  field?: string;
  limit?: string;
  remedy?: string;
}

export interface ListedObject {
  key: string;
  size: number;
  etag: string;
  last_modified: string;
  content_type?: string;
  metadata?: Record<string, string>;
  expires_at?: string | null;
  sha256?: string | null;
}

export interface ObjectPage {
  objects: ListedObject[];
  prefixes: string[];
  cursor: string | null;
}

export interface PrefixResult {
  done: number;
  skipped: number;
  failures: number;
  failed: { key: string; problem: Problem }[];
  is_complete: boolean;
  cursor: string | null;
  problem?: Problem;
  remedy?: string;
}

export interface Version {
  number: number;
  size: number;
  etag: string;
  saved_at: string;
  saved_by?: string;
  labels: string[];
  is_current: boolean;
}

export interface VersionPage {
  key: string;
  current: number | null;
  versions: Version[];
  cursor: string | null;
}

export interface Link {
  url: string;
  method: string;
  headers: Record<string, string>;
  through: 'app' | 'store';
}

export const STATES = ['queued', 'running', 'succeeded', 'failed', 'dead', 'cancelled'] as const;
export type State = (typeof STATES)[number];

export interface Attempt {
  number: number;
  started_at: string | null;
  ended_at: string;
  outcome: string;
  error_code: string | null;
  error_message: string | null;
  next_at: string | null;
}

export interface Task {
  task_id: string;
  action: string;
  agent_id: string;
  status: State;
  priority: string;
  payload?: unknown;
  result?: unknown;
  error: { code: string; message: string; traceback?: string | null } | null;
  progress: unknown;
  attempts: number;
  parent_id?: string;
  children?: { total: number; ended: number; failed: number };
  correlation_id: string | null;
  idempotency_key?: string;
  submitter?: string;
  cancel_requested?: boolean;
  created_at: string;
  due_at: string | null;
  started_at: string | null;
  finished_at: string | null;
  updated_at: string;
  history: Attempt[];
  omitted?: Record<string, string>;
  raw_message?: string;
  etag: string;
}

export interface TaskPage {
  tasks: Task[];
  cursor: string | null;
}

export interface TaskCounts {
  counts: Partial<Record<State, number>>;
  at_least: State[];
  total: number;
}

export interface Action {
  name: string;
  description: string;
  payload_schema: Schema;
  timeout_seconds: number;
}

export interface Schema {
  type?: string | string[];
  title?: string;
  description?: string | undefined;
  default?: unknown;
  enum?: unknown[];
  const?: unknown;
  properties?: Record<string, Schema>;
  additionalProperties?: Schema | boolean;
  required?: string[];
  anyOf?: Schema[];
  oneOf?: Schema[];
  allOf?: Schema[];
  items?: Schema;
  prefixItems?: Schema[];
  $ref?: string;
  $defs?: Record<string, Schema>;
  definitions?: Record<string, Schema>;
}

export interface ChangedTasks {
  tasks: { task_id: string }[];
  failed: { task_id: string; problem?: Problem }[];
  cursor: string | null;
}

export interface NamedResource {
  name: string;
  owner: string | null;
  /** Of a queue. */
  length?: number;
  oldest_at?: string | null;
}

export interface NamePage {
  tables?: NamedResource[];
  queues?: NamedResource[];
  cursor: string | null;
}

export interface Message {
  id: string;
  body: string;
  encoding?: 'base64';
  dequeue_count: number;
  inserted_at: string;
  expires_at: string;
}

export interface Entity extends Record<string, unknown> {
  PartitionKey: string;
  RowKey: string;
  Timestamp: string;
  etag: string;
}

export interface Conversation {
  id: string;
  position: number;
  count: number;
  participants: string[];
  topic: string | null;
  metadata: Record<string, unknown>;
  created_at: string;
  updated_at: string;
  expires_at: string | null;
  etag: string;
}

export interface Entry {
  position: number;
  id: string;
  message: Record<string, unknown>;
  at: string;
}

export interface ConversationRead {
  conversation: Conversation;
  entries: Entry[];
}
