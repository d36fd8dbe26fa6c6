/*
 * Runs LymphInfer on every image of the open project, one after the other, imports the nuclei and
 * ends with a table. An image that fails is passed over, with its reason in the table; what is done
 * already is not computed again.
 *
 * Change: `lymphinfer` below, the full path of the program. The other settings may stay.
 * Runs in: the script editor (Run, not Run for project) and the menu of install_menu.groovy, with the
 * project open in one viewer. Without a window: QuPath script with run_lymphinfer.groovy.
 * For QuPath 0.5 to 0.7. See README.md.
 */
import com.google.gson.Gson
import qupath.fx.dialogs.Dialogs
import qupath.lib.common.ColorTools
import qupath.lib.common.GeneralTools
import qupath.lib.io.PathIO
import qupath.lib.objects.classes.PathClass
import qupath.lib.projects.Projects

import static qupath.lib.gui.scripting.QPEx.*

// ---- Settings ------------------------------------------------------------------------------

// The command, such as '/home/me/lymphinfer/bin/lymphinfer' or 'C:\\lymphinfer\\Scripts\\lymphinfer.exe'.
String lymphinfer = 'lymphinfer'

// Name or folder of a bundle. null: the default
String bundle = null

// Further options of `lymphinfer predict`, such as ['--device', 'cuda', '--operating-point', 'precise'].
List<String> options = []

// Only the images whose name contains this text. Empty: all
String only = ''

// Take away the nuclei of an earlier run. false: an image that has some is left alone.
boolean replace = false

// ---- Work ----------------------------------------------------------------------------------

if (getQuPath() == null)
    throw new RuntimeException('QuPath script runs this once an image; use run_lymphinfer.groovy.')
def project = getProject()
if (project == null) {
    refuse('Open a project first; run_lymphinfer.groovy does one image.')
    return
}
def out = new File(Projects.getBaseDirectory(project), 'lymphinfer')
out.mkdirs()
def open = getProjectEntry()
def entries = project.getImageList().findAll { it.getImageName().contains(only) }
def table = [['image', 'nuclei', 'seconds', '']]
entries.eachWithIndex { entry, index ->
    println "${index + 1} of ${entries.size()}: ${entry.getImageName()}"
    def began = System.currentTimeMillis()
    def imageData = null
    def words = ''
    def nuclei = ''
    try {
        // The open image has its own copy of the data; a second one would be overwritten.
        imageData = entry == open ? getCurrentImageData() : entry.readImageData()
        def old = imageData.getHierarchy().getDetectionObjects().findAll { isOfLymphInfer(it) }
        if (old && !replace) {
            nuclei = old.size()
            words = 'left alone: has nuclei of an earlier run, and replace is false'
        } else {
            def file = predict(lymphinfer, bundle, options, imageData.getServer(), out)
            nuclei = load(file, imageData, old)
            entry.saveImageData(imageData)
            words = file.getPath()
        }
    } catch (InterruptedException e) {
        throw e
    } catch (Exception e) {
        words = "FAILED: ${e.message ?: e}"
        println words
    } finally {
        if (imageData != null && entry != open)
            imageData.getServer().close()
    }
    table << [entry.getImageName(), nuclei, ((System.currentTimeMillis() - began) / 1000) as int, words]
}
project.syncChanges()
println asText(table)
def failed = table.count { it[3].toString().startsWith('FAILED') }
if (failed)
    refuse("${failed} of ${entries.size()} images failed; the table in the log says why.")

/** Run LymphInfer on an image: the file for QuPath. Throws with its last words where it fails. */
File predict(String lymphinfer, String bundle, List<String> options, server, File out) {
    def uris = server.getURIs()
    def slide = uris.collect { GeneralTools.toPath(it) }.find { it != null }?.toFile()
    if (slide == null || !slide.exists())
        throw new IOException("no file of this computer: ${uris.join(', ')}")
    def command = [lymphinfer, 'predict', slide.getPath(), '--out', out.getPath()]
    if (bundle != null)
        command += ['--bundle', bundle]
    command += options
    def (code, lines, log) = runCommand(command.collect { it.toString() })
    if (code == null)
        throw new IOException("cannot start ${lymphinfer} (${log.join(' ')}); set its full path at the top of this script")
    // The one thing on its standard output is the file for QuPath.
    if (code != 0 || lines.isEmpty())
        throw new IOException("code ${code}: ${log.takeRight(2).join(' ')}")
    return new File(lines[-1].trim())
}

/** Put the nuclei of a file in place of old ones; how many they are. */
int load(File file, imageData, List old) {
    def summary = new Gson().fromJson(new File(file.getParentFile(), 'summary.json').getText('UTF-8'), Map)
    def server = imageData.getServer()
    if (!isOf(summary, server))
        throw new IOException("LymphInfer read ${sizeOf(summary)} px, QuPath shows ${server.getWidth()} x ${server.getHeight()}; " +
                'another image of the file, or one that QuPath has turned or cropped')
    setColors(summary)
    def nuclei = PathIO.readObjects(file)
    imageData.getHierarchy().removeObjects(old, true)
    imageData.getHierarchy().addObjects(nuclei)
    return nuclei.size()
}

/** Rows with columns of one width. */
String asText(List<List> table) {
    def widths = (0..2).collect { column -> table.collect { it[column].toString().size() }.max() }
    return table.collect { row ->
        (0..2).collect { row[it].toString().padRight(widths[it]) }.join('  ') + '  ' + row[3]
    }.join('\n')
}

/** Say what went wrong. */
void refuse(CharSequence words) {
    println words
    Dialogs.showErrorMessage('LymphInfer', words.toString())
}

/** Run a command and show its log as it comes: exit code, standard output, log; no code if it cannot start. */
List runCommand(List<String> command) {
    def lines = Collections.synchronizedList([])
    def log = Collections.synchronizedList([])
    def builder = new ProcessBuilder(command)
    // Python on Windows writes other letters than UTF-8 unless it is told to.
    builder.environment().put('PYTHONUTF8', '1')
    def process
    try {
        process = builder.start()
    } catch (IOException e) {
        return [null, lines, [e.message]]
    }
    process.getOutputStream().close()
    def readers = [
        Thread.start { process.getInputStream().eachLine('UTF-8') { if (!it.isBlank()) lines << it } },
        Thread.start { process.getErrorStream().eachLine('UTF-8') { log << it; println it } }
    ]
    try {
        int code = process.waitFor()
        readers.each { it.join() }
        return [code, lines, log]
    } finally {
        // A script that is killed takes LymphInfer with it.
        process.destroy()
    }
}

/** Whether an earlier import has brought a nucleus; StarDist's own have no marker. */
boolean isOfLymphInfer(nucleus) {
    def values = nucleus.getMeasurementList()
    return !Double.isNaN(values.get('Detection probability')) && !Double.isNaN(values.get('CD45 probability'))
}

String sizeOf(summary) {
    return summary.slide.dimensions.collect { it as int }.join(' x ')
}

/** Whether a result is of the image that QuPath shows; of a slide with bounds QuPath shows a part. */
boolean isOf(summary, server) {
    def size = summary.slide.dimensions.collect { it as int }
    def corner = summary.slide.bounds_offset.collect { it as int }
    def shown = [server.getWidth(), server.getHeight()]
    return shown == size || (corner != [0, 0] && (0..1).every { corner[it] + shown[it] <= size[it] })
}

/** Give the classes the colours of the panel, parents first: QuPath makes up those of a class it has not met. */
void setColors(summary) {
    summary.calls.sort { it.key.count(':') }.each { name, row ->
        if (row.color != null)
            PathClass.fromString(name).setColor(ColorTools.packRGB(*row.color.collect { it as int }))
    }
}
