// src/generated/core/bodySerializer.gen.ts
var jsonBodySerializer = {
  bodySerializer: (body) => JSON.stringify(body, (_key, value) => typeof value === "bigint" ? value.toString() : value)
};

// src/generated/core/serverSentEvents.gen.ts
function createSseClient({
  onRequest,
  onSseError,
  onSseEvent,
  responseTransformer,
  responseValidator,
  sseDefaultRetryDelay,
  sseMaxRetryAttempts,
  sseMaxRetryDelay,
  sseSleepFn,
  url,
  ...options
}) {
  let lastEventId;
  const sleep = sseSleepFn ?? ((ms) => new Promise((resolve) => setTimeout(resolve, ms)));
  const createStream = async function* () {
    let retryDelay = sseDefaultRetryDelay ?? 3e3;
    let attempt = 0;
    const signal = options.signal ?? new AbortController().signal;
    while (true) {
      if (signal.aborted) break;
      attempt++;
      const headers = options.headers instanceof Headers ? options.headers : new Headers(options.headers);
      if (lastEventId !== void 0) {
        headers.set("Last-Event-ID", lastEventId);
      }
      try {
        const requestInit = {
          redirect: "follow",
          ...options,
          body: options.serializedBody,
          headers,
          signal
        };
        let request = new Request(url, requestInit);
        if (onRequest) {
          request = await onRequest(url, requestInit);
        }
        const _fetch = options.fetch ?? globalThis.fetch;
        const response = await _fetch(request);
        if (!response.ok) throw new Error(`SSE failed: ${response.status} ${response.statusText}`);
        if (!response.body) throw new Error("No body in SSE response");
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        let buffer = "";
        const abortHandler = () => {
          try {
            reader.cancel();
          } catch {
          }
        };
        signal.addEventListener("abort", abortHandler);
        try {
          while (true) {
            const { done, value } = await reader.read();
            if (done) break;
            buffer += value;
            buffer = buffer.replace(/\r\n?/g, "\n");
            const chunks = buffer.split("\n\n");
            buffer = chunks.pop() ?? "";
            for (const chunk of chunks) {
              const lines = chunk.split("\n");
              const dataLines = [];
              let eventName;
              for (const line of lines) {
                if (line.startsWith("data:")) {
                  dataLines.push(line.replace(/^data:\s*/, ""));
                } else if (line.startsWith("event:")) {
                  eventName = line.replace(/^event:\s*/, "");
                } else if (line.startsWith("id:")) {
                  lastEventId = line.replace(/^id:\s*/, "");
                } else if (line.startsWith("retry:")) {
                  const parsed = Number.parseInt(line.replace(/^retry:\s*/, ""), 10);
                  if (!Number.isNaN(parsed)) {
                    retryDelay = parsed;
                  }
                }
              }
              let data;
              let parsedJson = false;
              if (dataLines.length) {
                const rawData = dataLines.join("\n");
                try {
                  data = JSON.parse(rawData);
                  parsedJson = true;
                } catch {
                  data = rawData;
                }
              }
              if (parsedJson) {
                if (responseValidator) {
                  await responseValidator(data);
                }
                if (responseTransformer) {
                  data = await responseTransformer(data);
                }
              }
              onSseEvent?.({
                data,
                event: eventName,
                id: lastEventId,
                retry: retryDelay
              });
              if (dataLines.length) {
                yield data;
              }
            }
          }
        } finally {
          signal.removeEventListener("abort", abortHandler);
          reader.releaseLock();
        }
        break;
      } catch (error) {
        onSseError?.(error);
        if (sseMaxRetryAttempts !== void 0 && attempt >= sseMaxRetryAttempts) {
          break;
        }
        const backoff = Math.min(retryDelay * 2 ** (attempt - 1), sseMaxRetryDelay ?? 3e4);
        await sleep(backoff);
      }
    }
  };
  const stream = createStream();
  return { stream };
}

// src/generated/core/pathSerializer.gen.ts
var separatorArrayExplode = (style) => {
  switch (style) {
    case "label":
      return ".";
    case "matrix":
      return ";";
    case "simple":
      return ",";
    default:
      return "&";
  }
};
var separatorArrayNoExplode = (style) => {
  switch (style) {
    case "form":
      return ",";
    case "pipeDelimited":
      return "|";
    case "spaceDelimited":
      return "%20";
    default:
      return ",";
  }
};
var separatorObjectExplode = (style) => {
  switch (style) {
    case "label":
      return ".";
    case "matrix":
      return ";";
    case "simple":
      return ",";
    default:
      return "&";
  }
};
var serializeArrayParam = ({
  allowReserved,
  explode,
  name,
  style,
  value
}) => {
  if (!explode) {
    const joinedValues2 = (allowReserved ? value : value.map((v) => encodeURIComponent(v))).join(separatorArrayNoExplode(style));
    switch (style) {
      case "label":
        return `.${joinedValues2}`;
      case "matrix":
        return `;${name}=${joinedValues2}`;
      case "simple":
        return joinedValues2;
      default:
        return `${name}=${joinedValues2}`;
    }
  }
  const separator = separatorArrayExplode(style);
  const joinedValues = value.map((v) => {
    if (style === "label" || style === "simple") {
      return allowReserved ? v : encodeURIComponent(v);
    }
    return serializePrimitiveParam({
      allowReserved,
      name,
      value: v
    });
  }).join(separator);
  return style === "label" || style === "matrix" ? separator + joinedValues : joinedValues;
};
var serializePrimitiveParam = ({
  allowReserved,
  name,
  value
}) => {
  if (value === void 0 || value === null) {
    return "";
  }
  if (typeof value === "object") {
    throw new Error(
      "Deeply-nested arrays/objects aren’t supported. Provide your own `querySerializer()` to handle these."
    );
  }
  return `${name}=${allowReserved ? value : encodeURIComponent(value)}`;
};
var serializeObjectParam = ({
  allowReserved,
  explode,
  name,
  style,
  value,
  valueOnly
}) => {
  if (value instanceof Date) {
    return valueOnly ? value.toISOString() : `${name}=${value.toISOString()}`;
  }
  if (style !== "deepObject" && !explode) {
    let values = [];
    Object.entries(value).forEach(([key, v]) => {
      values = [...values, key, allowReserved ? v : encodeURIComponent(v)];
    });
    const joinedValues2 = values.join(",");
    switch (style) {
      case "form":
        return `${name}=${joinedValues2}`;
      case "label":
        return `.${joinedValues2}`;
      case "matrix":
        return `;${name}=${joinedValues2}`;
      default:
        return joinedValues2;
    }
  }
  const separator = separatorObjectExplode(style);
  const joinedValues = Object.entries(value).map(
    ([key, v]) => serializePrimitiveParam({
      allowReserved,
      name: style === "deepObject" ? `${name}[${key}]` : key,
      value: v
    })
  ).join(separator);
  return style === "label" || style === "matrix" ? separator + joinedValues : joinedValues;
};

// src/generated/core/utils.gen.ts
var PATH_PARAM_RE = /\{[^{}]+\}/g;
var defaultPathSerializer = ({ path, url: _url }) => {
  let url = _url;
  const matches = _url.match(PATH_PARAM_RE);
  if (matches) {
    for (const match of matches) {
      let explode = false;
      let name = match.substring(1, match.length - 1);
      let style = "simple";
      if (name.endsWith("*")) {
        explode = true;
        name = name.substring(0, name.length - 1);
      }
      if (name.startsWith(".")) {
        name = name.substring(1);
        style = "label";
      } else if (name.startsWith(";")) {
        name = name.substring(1);
        style = "matrix";
      }
      const value = path[name];
      if (value === void 0 || value === null) {
        continue;
      }
      if (Array.isArray(value)) {
        url = url.replace(match, serializeArrayParam({ explode, name, style, value }));
        continue;
      }
      if (typeof value === "object") {
        url = url.replace(
          match,
          serializeObjectParam({
            explode,
            name,
            style,
            value,
            valueOnly: true
          })
        );
        continue;
      }
      if (style === "matrix") {
        url = url.replace(
          match,
          `;${serializePrimitiveParam({
            name,
            value
          })}`
        );
        continue;
      }
      const replaceValue = encodeURIComponent(
        style === "label" ? `.${value}` : value
      );
      url = url.replace(match, replaceValue);
    }
  }
  return url;
};
var getUrl = ({
  baseUrl,
  path,
  query,
  querySerializer,
  url: _url
}) => {
  const pathUrl = _url.startsWith("/") ? _url : `/${_url}`;
  let url = (baseUrl ?? "") + pathUrl;
  if (path) {
    url = defaultPathSerializer({ path, url });
  }
  let search = query ? querySerializer(query) : "";
  if (search.startsWith("?")) {
    search = search.substring(1);
  }
  if (search) {
    url += `?${search}`;
  }
  return url;
};
function getValidRequestBody(options) {
  const hasBody = options.body !== void 0;
  const isSerializedBody = hasBody && options.bodySerializer;
  if (isSerializedBody) {
    if ("serializedBody" in options) {
      const hasSerializedBody = options.serializedBody !== void 0 && options.serializedBody !== "";
      return hasSerializedBody ? options.serializedBody : null;
    }
    return options.body !== "" ? options.body : null;
  }
  if (hasBody) {
    return options.body;
  }
  return void 0;
}

// src/generated/core/auth.gen.ts
var getAuthToken = async (auth, callback) => {
  const token = typeof callback === "function" ? await callback(auth) : callback;
  if (!token) {
    return;
  }
  if (auth.scheme === "bearer") {
    return `Bearer ${token}`;
  }
  if (auth.scheme === "basic") {
    return `Basic ${btoa(token)}`;
  }
  return token;
};

// src/generated/client/utils.gen.ts
var createQuerySerializer = ({
  parameters = {},
  ...args
} = {}) => {
  const querySerializer = (queryParams) => {
    const search = [];
    if (queryParams && typeof queryParams === "object") {
      for (const name in queryParams) {
        const value = queryParams[name];
        if (value === void 0 || value === null) {
          continue;
        }
        const options = parameters[name] || args;
        if (Array.isArray(value)) {
          const serializedArray = serializeArrayParam({
            allowReserved: options.allowReserved,
            explode: true,
            name,
            style: "form",
            value,
            ...options.array
          });
          if (serializedArray) search.push(serializedArray);
        } else if (typeof value === "object") {
          const serializedObject = serializeObjectParam({
            allowReserved: options.allowReserved,
            explode: true,
            name,
            style: "deepObject",
            value,
            ...options.object
          });
          if (serializedObject) search.push(serializedObject);
        } else {
          const serializedPrimitive = serializePrimitiveParam({
            allowReserved: options.allowReserved,
            name,
            value
          });
          if (serializedPrimitive) search.push(serializedPrimitive);
        }
      }
    }
    return search.join("&");
  };
  return querySerializer;
};
var getParseAs = (contentType) => {
  if (!contentType) {
    return "stream";
  }
  const cleanContent = contentType.split(";")[0]?.trim();
  if (!cleanContent) {
    return;
  }
  if (cleanContent.startsWith("application/json") || cleanContent.endsWith("+json")) {
    return "json";
  }
  if (cleanContent === "multipart/form-data") {
    return "formData";
  }
  if (["application/", "audio/", "image/", "video/"].some((type) => cleanContent.startsWith(type))) {
    return "blob";
  }
  if (cleanContent.startsWith("text/")) {
    return "text";
  }
  return;
};
var checkForExistence = (options, name) => {
  if (!name) {
    return false;
  }
  if (options.headers.has(name) || options.query?.[name] || options.headers.get("Cookie")?.includes(`${name}=`)) {
    return true;
  }
  return false;
};
async function setAuthParams(options) {
  for (const auth of options.security ?? []) {
    if (checkForExistence(options, auth.name)) {
      continue;
    }
    const token = await getAuthToken(auth, options.auth);
    if (!token) {
      continue;
    }
    const name = auth.name ?? "Authorization";
    switch (auth.in) {
      case "query":
        if (!options.query) {
          options.query = {};
        }
        options.query[name] = token;
        break;
      case "cookie":
        options.headers.append("Cookie", `${name}=${token}`);
        break;
      case "header":
      default:
        options.headers.set(name, token);
        break;
    }
  }
}
var buildUrl = (options) => getUrl({
  baseUrl: options.baseUrl,
  path: options.path,
  query: options.query,
  querySerializer: typeof options.querySerializer === "function" ? options.querySerializer : createQuerySerializer(options.querySerializer),
  url: options.url
});
var mergeConfigs = (a, b) => {
  const config = { ...a, ...b };
  if (config.baseUrl?.endsWith("/")) {
    config.baseUrl = config.baseUrl.substring(0, config.baseUrl.length - 1);
  }
  config.headers = mergeHeaders(a.headers, b.headers);
  return config;
};
var headersEntries = (headers) => {
  const entries = [];
  headers.forEach((value, key) => {
    entries.push([key, value]);
  });
  return entries;
};
var mergeHeaders = (...headers) => {
  const mergedHeaders = new Headers();
  for (const header of headers) {
    if (!header) {
      continue;
    }
    const iterator = header instanceof Headers ? headersEntries(header) : Object.entries(header);
    for (const [key, value] of iterator) {
      if (value === null) {
        mergedHeaders.delete(key);
      } else if (Array.isArray(value)) {
        for (const v of value) {
          mergedHeaders.append(key, v);
        }
      } else if (value !== void 0) {
        mergedHeaders.set(
          key,
          typeof value === "object" ? JSON.stringify(value) : value
        );
      }
    }
  }
  return mergedHeaders;
};
var Interceptors = class {
  fns = [];
  clear() {
    this.fns = [];
  }
  eject(id) {
    const index = this.getInterceptorIndex(id);
    if (this.fns[index]) {
      this.fns[index] = null;
    }
  }
  exists(id) {
    const index = this.getInterceptorIndex(id);
    return Boolean(this.fns[index]);
  }
  getInterceptorIndex(id) {
    if (typeof id === "number") {
      return this.fns[id] ? id : -1;
    }
    return this.fns.indexOf(id);
  }
  update(id, fn) {
    const index = this.getInterceptorIndex(id);
    if (this.fns[index]) {
      this.fns[index] = fn;
      return id;
    }
    return false;
  }
  use(fn) {
    this.fns.push(fn);
    return this.fns.length - 1;
  }
};
var createInterceptors = () => ({
  error: new Interceptors(),
  request: new Interceptors(),
  response: new Interceptors()
});
var defaultQuerySerializer = createQuerySerializer({
  allowReserved: false,
  array: {
    explode: true,
    style: "form"
  },
  object: {
    explode: true,
    style: "deepObject"
  }
});
var defaultHeaders = {
  "Content-Type": "application/json"
};
var createConfig = (override = {}) => ({
  ...jsonBodySerializer,
  headers: defaultHeaders,
  parseAs: "auto",
  querySerializer: defaultQuerySerializer,
  ...override
});

// src/generated/client/client.gen.ts
var createClient = (config = {}) => {
  let _config = mergeConfigs(createConfig(), config);
  const getConfig = () => ({ ..._config });
  const setConfig = (config2) => {
    _config = mergeConfigs(_config, config2);
    return getConfig();
  };
  const interceptors = createInterceptors();
  const beforeRequest = async (options) => {
    const opts = {
      ..._config,
      ...options,
      fetch: options.fetch ?? _config.fetch ?? globalThis.fetch,
      headers: mergeHeaders(_config.headers, options.headers),
      serializedBody: void 0
    };
    if (opts.security) {
      await setAuthParams(opts);
    }
    if (opts.requestValidator) {
      await opts.requestValidator(opts);
    }
    if (opts.body !== void 0 && opts.bodySerializer) {
      opts.serializedBody = opts.bodySerializer(opts.body);
    }
    if (opts.body === void 0 || opts.serializedBody === "") {
      opts.headers.delete("Content-Type");
    }
    const resolvedOpts = opts;
    const url = buildUrl(resolvedOpts);
    return { opts: resolvedOpts, url };
  };
  const request = async (options) => {
    const throwOnError = options.throwOnError ?? _config.throwOnError;
    const responseStyle = options.responseStyle ?? _config.responseStyle;
    let request2;
    let response;
    try {
      const { opts, url } = await beforeRequest(options);
      const requestInit = {
        redirect: "follow",
        ...opts,
        body: getValidRequestBody(opts)
      };
      request2 = new Request(url, requestInit);
      for (const fn of interceptors.request.fns) {
        if (fn) {
          request2 = await fn(request2, opts);
        }
      }
      const _fetch = opts.fetch;
      response = await _fetch(request2);
      for (const fn of interceptors.response.fns) {
        if (fn) {
          response = await fn(response, request2, opts);
        }
      }
      const result = {
        request: request2,
        response
      };
      if (response.ok) {
        const parseAs = (opts.parseAs === "auto" ? getParseAs(response.headers.get("Content-Type")) : opts.parseAs) ?? "json";
        if (response.status === 204 || response.headers.get("Content-Length") === "0") {
          let emptyData;
          switch (parseAs) {
            case "arrayBuffer":
            case "blob":
            case "text":
              emptyData = await response[parseAs]();
              break;
            case "formData":
              emptyData = new FormData();
              break;
            case "stream":
              emptyData = response.body;
              break;
            case "json":
            default:
              emptyData = {};
              break;
          }
          return opts.responseStyle === "data" ? emptyData : {
            data: emptyData,
            ...result
          };
        }
        let data;
        switch (parseAs) {
          case "arrayBuffer":
          case "blob":
          case "formData":
          case "text":
            data = await response[parseAs]();
            break;
          case "json": {
            const text = await response.text();
            data = text ? JSON.parse(text) : {};
            break;
          }
          case "stream":
            return opts.responseStyle === "data" ? response.body : {
              data: response.body,
              ...result
            };
        }
        if (parseAs === "json") {
          if (opts.responseValidator) {
            await opts.responseValidator(data);
          }
          if (opts.responseTransformer) {
            data = await opts.responseTransformer(data);
          }
        }
        return opts.responseStyle === "data" ? data : {
          data,
          ...result
        };
      }
      const textError = await response.text();
      let jsonError;
      try {
        jsonError = JSON.parse(textError);
      } catch {
      }
      throw jsonError ?? textError;
    } catch (error) {
      let finalError = error;
      for (const fn of interceptors.error.fns) {
        if (fn) {
          finalError = await fn(finalError, response, request2, options);
        }
      }
      finalError = finalError || {};
      if (throwOnError) {
        throw finalError;
      }
      return responseStyle === "data" ? void 0 : {
        error: finalError,
        request: request2,
        response
      };
    }
  };
  const makeMethodFn = (method) => (options) => request({ ...options, method });
  const makeSseFn = (method) => async (options) => {
    const { opts, url } = await beforeRequest(options);
    return createSseClient({
      ...opts,
      body: opts.body,
      method,
      onRequest: async (url2, init) => {
        let request2 = new Request(url2, init);
        for (const fn of interceptors.request.fns) {
          if (fn) {
            request2 = await fn(request2, opts);
          }
        }
        return request2;
      },
      serializedBody: getValidRequestBody(opts),
      url
    });
  };
  const _buildUrl = (options) => buildUrl({ ..._config, ...options });
  return {
    buildUrl: _buildUrl,
    connect: makeMethodFn("CONNECT"),
    delete: makeMethodFn("DELETE"),
    get: makeMethodFn("GET"),
    getConfig,
    head: makeMethodFn("HEAD"),
    interceptors,
    options: makeMethodFn("OPTIONS"),
    patch: makeMethodFn("PATCH"),
    post: makeMethodFn("POST"),
    put: makeMethodFn("PUT"),
    request,
    setConfig,
    sse: {
      connect: makeSseFn("CONNECT"),
      delete: makeSseFn("DELETE"),
      get: makeSseFn("GET"),
      head: makeSseFn("HEAD"),
      options: makeSseFn("OPTIONS"),
      patch: makeSseFn("PATCH"),
      post: makeSseFn("POST"),
      put: makeSseFn("PUT"),
      trace: makeSseFn("TRACE")
    },
    trace: makeMethodFn("TRACE")
  };
};

// src/generated/client.gen.ts
var client = createClient(createConfig({ throwOnError: true }));

// src/generated/sdk.gen.ts
var HeyApiClient = class {
  client;
  constructor(args) {
    this.client = args?.client ?? client;
  }
};
var HeyApiRegistry = class {
  defaultKey = "default";
  instances = /* @__PURE__ */ new Map();
  get(key) {
    const instance = this.instances.get(key ?? this.defaultKey);
    if (!instance) {
      throw new Error(`No SDK client found. Create one with "new Operations()" to fix this error.`);
    }
    return instance;
  }
  set(value, key) {
    this.instances.set(key ?? this.defaultKey, value);
  }
};
var Operations = class _Operations extends HeyApiClient {
  static __registry = new HeyApiRegistry();
  constructor(args) {
    super(args);
    _Operations.__registry.set(this, args?.key);
  }
  /**
   * Create Quote
   *
   * Price parameters without ordering anything. Texts and files may still be missing: `missing` names them.
   */
  createQuote(options) {
    return (options.client ?? this.client).post({
      responseStyle: "data",
      security: [{ scheme: "bearer", type: "http" }],
      url: "/v1/quotes",
      ...options,
      headers: {
        "Content-Type": "application/json",
        ...options.headers
      }
    });
  }
  /**
   * List Generations
   *
   * The user's generations, newest first.
   */
  listGenerations(options) {
    return (options?.client ?? this.client).get({
      responseStyle: "data",
      security: [{ scheme: "bearer", type: "http" }],
      url: "/v1/generations",
      ...options
    });
  }
  /**
   * Create Generation
   *
   * Order a clip or a picture, or several variants of one. 201: the credits are reserved. 402: there are too few.
   *
   * With a `count` above 1 each variant is a generation of its own: with its own status, file, charge and end. The
   * answer is the first one, and its `variants` name them all.
   */
  createGeneration(options) {
    return (options.client ?? this.client).post({
      responseStyle: "data",
      security: [{ scheme: "bearer", type: "http" }],
      url: "/v1/generations",
      ...options,
      headers: {
        "Content-Type": "application/json",
        ...options.headers
      }
    });
  }
  /**
   * Repeat Generation
   *
   * Order the same again, at today's price, with the same uploads. It is a new order, and answered like one.
   *
   * An upload that is not kept any more is `invalid_parameters` with `upload_expired`; a model that is no longer
   * offered is `model_not_found`.
   */
  repeatGeneration(options) {
    return (options.client ?? this.client).post({
      responseStyle: "data",
      security: [{ scheme: "bearer", type: "http" }],
      url: "/v1/generations/{generation_id}/repeat",
      ...options,
      headers: {
        "Content-Type": "application/json",
        ...options.headers
      }
    });
  }
  /**
   * Delete Generation
   *
   * Delete one that has ended: it leaves every list, and its files leave the library. Its charge stays.
   *
   * With `variants=all` all variants of its order are deleted, or none, if one has not ended.
   */
  deleteGeneration(options) {
    return (options.client ?? this.client).delete({
      responseStyle: "data",
      security: [{ scheme: "bearer", type: "http" }],
      url: "/v1/generations/{generation_id}",
      ...options
    });
  }
  /**
   * Get Generation
   *
   * One generation, with fresh links to its file once it is completed.
   */
  getGeneration(options) {
    return (options.client ?? this.client).get({
      responseStyle: "data",
      security: [{ scheme: "bearer", type: "http" }],
      url: "/v1/generations/{generation_id}",
      ...options
    });
  }
  /**
   * Get Generation Timeline
   *
   * Everything that happened to one generation, in order.
   */
  getGenerationTimeline(options) {
    return (options.client ?? this.client).get({
      responseStyle: "data",
      security: [{ scheme: "bearer", type: "http" }],
      url: "/v1/generations/{generation_id}/timeline",
      ...options
    });
  }
  /**
   * Cancel Generation
   *
   * Ask for it to be stopped. It wins until the file is being checked; the credits come back with the next event.
   *
   * Work that waits can always be cancelled. Of work that a worker has, the plan allows so many cancels in any 24 hours
   * (`running_cancels_per_day` of a quote): beyond that it runs to its end, and is charged. A cancel that was accepted
   * for waiting work then stops nothing, if a worker takes the work before the cancel arrives. With `variants=all` each
   * variant of its order is stopped that can be.
   */
  cancelGeneration(options) {
    return (options.client ?? this.client).post({
      responseStyle: "data",
      security: [{ scheme: "bearer", type: "http" }],
      url: "/v1/generations/{generation_id}/cancel",
      ...options
    });
  }
  /**
   * Get Balance
   *
   * What can be spent, what is reserved, what was spent, and what is owed.
   */
  getBalance(options) {
    return (options?.client ?? this.client).get({
      responseStyle: "data",
      security: [{ scheme: "bearer", type: "http" }],
      url: "/v1/balance",
      ...options
    });
  }
  /**
   * Get Usage
   *
   * Orders and credits by day and model: of the last 30 days, or of at most 92 that you name, in UTC.
   */
  getUsage(options) {
    return (options?.client ?? this.client).get({
      responseStyle: "data",
      security: [{ scheme: "bearer", type: "http" }],
      url: "/v1/usage",
      ...options
    });
  }
  /**
   * Get Ledger
   *
   * Every movement of the user's credits: JSON pages, newest first, or the whole statement as CSV, oldest first.
   */
  getLedger(options) {
    return (options?.client ?? this.client).get({
      responseStyle: "data",
      security: [{ scheme: "bearer", type: "http" }],
      url: "/v1/ledger",
      ...options
    });
  }
  /**
   * Get Ledger Receipt
   *
   * A proof that a line stands in the sealed ledger, to be checked without us.
   */
  getLedgerReceipt(options) {
    return (options.client ?? this.client).get({
      responseStyle: "data",
      security: [{ scheme: "bearer", type: "http" }],
      url: "/v1/ledger/{line_number}/receipt",
      ...options
    });
  }
  /**
   * List Ledger Heads
   *
   * The published heads of the ledger of all users, newest first. Keep one: it cannot be taken back.
   */
  listLedgerHeads(options) {
    return (options?.client ?? this.client).get({
      responseStyle: "data",
      security: [{ scheme: "bearer", type: "http" }],
      url: "/v1/ledger/heads",
      ...options
    });
  }
  /**
   * Get Ledger Consistency
   *
   * A proof that the newest head continues this one: nothing that was sealed then has changed or gone.
   */
  getLedgerConsistency(options) {
    return (options.client ?? this.client).get({
      responseStyle: "data",
      security: [{ scheme: "bearer", type: "http" }],
      url: "/v1/ledger/heads/{tree_size}/consistency",
      ...options
    });
  }
  /**
   * List Models
   *
   * Every model with the schema of its parameters and its price rule. Cache it by its ETag.
   */
  listModels(options) {
    return (options?.client ?? this.client).get({
      responseStyle: "data",
      url: "/v1/models",
      ...options
    });
  }
  /**
   * List Credit Packs
   *
   * Every credit pack, cheapest first.
   */
  listCreditPacks(options) {
    return (options?.client ?? this.client).get({
      responseStyle: "data",
      url: "/v1/credit-packs",
      ...options
    });
  }
  /**
   * List Payments
   *
   * The user's payments, newest first.
   */
  listPayments(options) {
    return (options?.client ?? this.client).get({
      responseStyle: "data",
      security: [{ scheme: "bearer", type: "http" }],
      url: "/v1/payments",
      ...options
    });
  }
  /**
   * Create Payment
   *
   * Begin to buy a pack. Send the user to ``checkout_url``; the credits come by themselves.
   */
  createPayment(options) {
    return (options.client ?? this.client).post({
      responseStyle: "data",
      security: [{ scheme: "bearer", type: "http" }],
      url: "/v1/payments",
      ...options,
      headers: {
        "Content-Type": "application/json",
        ...options.headers
      }
    });
  }
  /**
   * Get Payment
   *
   * One payment.
   */
  getPayment(options) {
    return (options.client ?? this.client).get({
      responseStyle: "data",
      security: [{ scheme: "bearer", type: "http" }],
      url: "/v1/payments/{payment_id}",
      ...options
    });
  }
  /**
   * Get Payment Timeline
   *
   * Everything that happened to one payment, in order.
   */
  getPaymentTimeline(options) {
    return (options.client ?? this.client).get({
      responseStyle: "data",
      security: [{ scheme: "bearer", type: "http" }],
      url: "/v1/payments/{payment_id}/timeline",
      ...options
    });
  }
  /**
   * Create Upload
   *
   * Get an address to PUT a picture to. The picture is checked when a generation uses it.
   */
  createUpload(options) {
    return (options.client ?? this.client).post({
      responseStyle: "data",
      security: [{ scheme: "bearer", type: "http" }],
      url: "/v1/uploads",
      ...options,
      headers: {
        "Content-Type": "application/json",
        ...options.headers
      }
    });
  }
  /**
   * Verify File
   *
   * Ask whether Reelhouse made a file: send the file itself as the body, or its sha256 as JSON. Nothing is kept.
   */
  verifyFile(options) {
    return (options.client ?? this.client).post({
      responseStyle: "data",
      url: "/v1/verify",
      ...options,
      headers: {
        "Content-Type": "application/json",
        ...options.headers
      }
    });
  }
};

// src/problems.ts
var ProblemError = class extends Error {
  name = "ProblemError";
  problem;
  constructor(problem) {
    super(problem.detail ? `${problem.title}: ${problem.detail}` : problem.title);
    this.problem = problem;
  }
};
var NoAnswerError = class extends Error {
  constructor(cause, status) {
    super(status ? `no answer from the API (${status})` : "no answer from the API", { cause });
    this.status = status;
  }
  status;
  name = "NoAnswerError";
};
function refused(error, code) {
  return error instanceof ProblemError && error.problem.code === code;
}
function decided(error) {
  return error instanceof ProblemError && error.problem.status < 500 && ![401, 429].includes(error.problem.status);
}
function asError(failure, status) {
  if (isProblem(failure)) return new ProblemError(failure);
  if (failure instanceof DOMException && failure.name === "AbortError") return failure;
  return new NoAnswerError(failure, status);
}
function isProblem(body) {
  return typeof body === "object" && body !== null && "code" in body && "retryable" in body && "instance" in body;
}

// src/retrying.ts
var RETRY = { attempts: 6, firstMs: 500, longestMs: 15e3, timeoutMs: 3e4 };
function retryingFetch(send, policy, token) {
  return async (input, init) => {
    const request = new Request(input, init);
    let refused2 = false;
    for (let attempt = 1; ; attempt++) {
      const last = attempt >= policy.attempts;
      let wait = Math.random() * Math.min(policy.longestMs, policy.firstMs * 2 ** (attempt - 1));
      try {
        if (attempt > 1) await renew(request, token);
        const signal = AbortSignal.any([request.signal, AbortSignal.timeout(policy.timeoutMs)]);
        const response = await send(new Request(request.clone(), { signal }));
        if (response.status === 401 && request.headers.has("Authorization") && !refused2 && !last) {
          refused2 = true;
          continue;
        }
        if (last || !mayChange(request, response.status)) return response;
        const asked = retryAfterMs(response);
        if (asked > policy.longestMs) return response;
        wait = Math.max(wait, asked);
      } catch (error) {
        if (last || request.signal.aborted || !isRepeatable(request)) throw error;
      }
      await pause(wait, request.signal);
    }
  };
}
async function renew(request, token) {
  const fresh = request.headers.has("Authorization") ? await token() : void 0;
  if (fresh !== void 0) request.headers.set("Authorization", `Bearer ${fresh}`);
}
function mayChange(request, status) {
  return status === 429 || status >= 500 && isRepeatable(request);
}
function isRepeatable(request) {
  return ["GET", "HEAD", "DELETE"].includes(request.method) || request.headers.has("Idempotency-Key");
}
function retryAfterMs(response) {
  return Number(response.headers.get("Retry-After") ?? 0) * 1e3 || 0;
}
function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

// src/events.ts
var SILENCE_MS = 45e3;
var RECONNECT_MS = 2e3;
var LONGEST_RECONNECT_MS = 3e4;
async function* follow(connect, options = {}) {
  const stop = new AbortController();
  const signal = options.signal ? AbortSignal.any([options.signal, stop.signal]) : stop.signal;
  let lastEventId = options.lastEventId;
  let reconnectMs = RECONNECT_MS;
  let failures = 0;
  try {
    while (!signal.aborted) {
      let asked = 0;
      let lost;
      try {
        const response = await withinSilence(signal, (limited) => connect(lastEventId === void 0 ? {} : { "Last-Event-ID": lastEventId }, limited));
        if (!response.ok || !response.body) {
          asked = retryAfterMs(response);
          throw asError(await response.json().catch(() => void 0), response.status);
        }
        for await (const block of blocks(response.body)) {
          failures = 0;
          reconnectMs = block.retry ?? reconnectMs;
          if (block.id !== void 0 && block.data === void 0) {
            yield { event: "stream.opened", data: { resumed: lastEventId !== void 0 }, id: block.id };
          }
          if (block.data !== void 0) {
            yield { event: block.event, data: JSON.parse(block.data), id: block.id };
          }
          lastEventId = block.id ?? lastEventId;
        }
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof ProblemError && !mayPass(error, failures)) throw error;
        lost = error;
      }
      failures += 1;
      yield { event: "stream.lost", data: lost === void 0 ? {} : { error: lost } };
      const longer = Math.random() * Math.min(LONGEST_RECONNECT_MS, reconnectMs * 2 ** (failures - 1));
      await pause(Math.max(asked, reconnectMs, longer), signal);
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    stop.abort();
  }
}
async function withinSilence(signal, open) {
  const overdue = new AbortController();
  const timer = setTimeout(() => overdue.abort(new Error("silence")), SILENCE_MS);
  return open(AbortSignal.any([signal, overdue.signal])).finally(() => clearTimeout(timer));
}
function mayPass(error, failures) {
  return error.problem.retryable || error.problem.status >= 500 || error.problem.status === 401 && failures === 0;
}
async function* blocks(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let unfinished = "";
  let block = { event: "message" };
  try {
    for (; ; ) {
      const silence = setTimeout(() => void reader.cancel(), SILENCE_MS);
      const { done, value } = await reader.read().finally(() => clearTimeout(silence));
      if (done) return;
      const lines = (unfinished + decoder.decode(value, { stream: true })).split("\n");
      unfinished = lines.pop() ?? "";
      for (const line of lines.map((one) => one.replace(/\r$/, ""))) {
        if (line !== "") {
          read(line, block);
        } else {
          yield block;
          block = { event: "message" };
        }
      }
    }
  } finally {
    await reader.cancel().catch(() => void 0);
  }
}
function read(line, block) {
  const colon = line.indexOf(":");
  const name = colon < 0 ? line : line.slice(0, colon);
  const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
  if (name === "event") block.event = value;
  if (name === "id") block.id = value;
  if (name === "retry" && /^\d+$/.test(value)) block.retry = Number(value);
  if (name === "data") block.data = block.data === void 0 ? value : `${block.data}
${value}`;
}

// src/pages.ts
async function* everyItem(fetchPage) {
  let cursor;
  do {
    const page = await fetchPage(cursor);
    yield* page.items;
    cursor = page.next ?? void 0;
  } while (cursor !== void 0);
}

// src/uploads.ts
var ALREADY_THERE = 412;
var SLOWEST_BYTES_PER_MS = 64;
async function put(upload, file, send, policy, signal) {
  const headers = Object.entries(upload.headers).filter(([name]) => name.toLowerCase() !== "content-length");
  const limitMs = policy.timeoutMs + Math.ceil(file.size / SLOWEST_BYTES_PER_MS);
  for (let attempt = 1; ; attempt++) {
    try {
      const limit = AbortSignal.timeout(limitMs);
      const limited = signal ? AbortSignal.any([signal, limit]) : limit;
      const response = await send(upload.url, { method: "PUT", headers, body: file, signal: limited });
      if (response.ok || response.status === ALREADY_THERE) return;
      if (response.status < 500 || attempt >= policy.attempts) throw new NoAnswerError(void 0, response.status);
    } catch (error) {
      if (error instanceof NoAnswerError || signal?.aborted) throw error;
      if (attempt >= policy.attempts) throw new NoAnswerError(error);
    }
    await pause(Math.random() * Math.min(policy.longestMs, policy.firstMs * 2 ** (attempt - 1)), signal);
  }
}

// src/reelhouse.ts
var ENDED = /* @__PURE__ */ new Set(["completed", "failed", "refused", "cancelled"]);
var Reelhouse = class extends Operations {
  #baseUrl;
  #token;
  #fetch;
  #policy;
  constructor(options) {
    const send = options.fetch ?? ((input, init) => globalThis.fetch(input, init));
    const policy = { ...RETRY, ...options.retry };
    const { token } = options;
    const freshToken = async () => typeof token === "function" ? token() : token;
    const client2 = createClient(createConfig({
      baseUrl: options.baseUrl,
      auth: freshToken,
      fetch: retryingFetch(send, policy, freshToken),
      throwOnError: true
    }));
    client2.interceptors.error.use((failure, response) => asError(failure, response?.status));
    super({ client: client2 });
    this.#baseUrl = options.baseUrl.replace(/\/$/, "");
    this.#token = freshToken;
    this.#fetch = send;
    this.#policy = policy;
  }
  /**
   * Order a clip or a picture, or `count` variants of one, once. Throws the refusal, for example `insufficient_credits`.
   * The answer is the first variant; its `variants` name all of them.
   */
  async order(body, { key = newKey(), signal } = {}) {
    return this.createGeneration({ body, headers: { "idempotency-key": key }, signal: signal ?? null });
  }
  /** Order the same again, once, with these parameters changed. It is a new order, at today's price. */
  async repeat(generationId, changes = {}, { key = newKey(), signal } = {}) {
    const path = { generation_id: generationId };
    const headers = { "idempotency-key": key };
    return this.repeatGeneration({ path, body: changes, headers, signal: signal ?? null });
  }
  /** Begin to buy a pack, once, and wait until it has a checkout: send the user to `checkout_url`. */
  async buy(body, { key = newKey(), signal } = {}) {
    for (; ; ) {
      const payment = await this.createPayment({ body, headers: { "idempotency-key": key }, signal: signal ?? null });
      if (payment.status !== "created") return payment;
      signal?.throwIfAborted();
    }
  }
  /** Upload a picture or a clip, and get the id to order with. It is checked when an order uses it. */
  async upload(file, options = {}) {
    const signal = options.signal ?? null;
    const contentType = options.contentType ?? file.type;
    const upload = await this.createUpload({ body: { content_type: contentType, size_bytes: file.size }, signal });
    await put(upload, file, this.#fetch, this.#policy, options.signal);
    return upload.id;
  }
  /** Everything that happens to this user's generations, payments and credits, without a gap, until you leave the loop. */
  events(options = {}) {
    return follow(async (headers, signal) => {
      const token = await this.#token();
      const authorized = token === void 0 ? headers : { ...headers, Authorization: `Bearer ${token}` };
      return this.#fetch(`${this.#baseUrl}/v1/events`, { headers: authorized, signal, cache: "no-store" });
    }, options);
  }
  /** The generation once it has ended. `status` says how; links to the file are in `download`. */
  async ended(generationId, options = {}) {
    return (await this.#ended([generationId], options))[0];
  }
  /** Every variant of the order once all have ended, in their order; of an order of one, that one. */
  async orderEnded(order, options = {}) {
    return this.#ended(order.count === 1 ? [order.id] : order.variants.map(({ id }) => id), options);
  }
  async #ended(ids, options) {
    const ended = /* @__PURE__ */ new Map();
    for await (const { event, data } of this.events(options)) {
      const asked = event === "stream.opened" ? ids : event === "generation.updated" && data.status !== void 0 ? ids.filter((id) => id === data.generation_id) : [];
      for (const id of asked) {
        const generation = await this.getGeneration({ path: { generation_id: id }, signal: options.signal ?? null });
        if (ENDED.has(generation.status)) ended.set(id, generation);
      }
      if (ended.size === ids.length) return ids.map((id) => ended.get(id));
    }
    throw options.signal?.reason ?? new Error("the event stream has ended");
  }
  /** The user's generations, newest first. */
  generations(query = {}) {
    return everyItem(async (cursor) => {
      const page = await this.listGenerations({ query: cursor === void 0 ? query : { ...query, cursor } });
      return { items: page.items, next: page.next_cursor };
    });
  }
  /** The user's payments, newest first. */
  payments(query = {}) {
    return everyItem(async (cursor) => {
      const page = await this.listPayments({ query: cursor === void 0 ? query : { ...query, cursor } });
      return { items: page.items, next: page.next_cursor };
    });
  }
  /** The statement, newest line first. */
  statement(query = {}) {
    return everyItem(async (before) => {
      const page = await this.getLedger({ query: before === void 0 ? query : { ...query, before } });
      return { items: page.items, next: page.next_before };
    });
  }
  /** The whole statement as CSV, oldest line first. */
  async statementCsv({ signal } = {}) {
    const text = await this.getLedger({ query: { format: "csv" }, parseAs: "text", signal: signal ?? null });
    return text;
  }
};
function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
export {
  ENDED,
  NoAnswerError,
  Operations,
  ProblemError,
  RETRY,
  Reelhouse,
  decided,
  newKey,
  refused
};
